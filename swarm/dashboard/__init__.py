"""The dashboard: what a node knows, as pages in a browser on the same machine.

A process of its own that asks the node over its control socket, as the command line does: whatever
a browser does, the node does not notice. Nothing comes from outside the machine.

    access.py     who may come in: a one-time token, then a cookie; nothing from other pages
    watching.py   one question to the node for all browsers; asked again when it changes
    pictures.py   what pages show, from what a node says: pure
    pages.py      the pages, and the events that keep them fresh
    serving.py    the server
    templates/ static/    HTML; htmx and uPlot as they are published, with their licences
"""
