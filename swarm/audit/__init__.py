"""The audit: what the chain proves about a consortium, and whether what is stored here agrees.

It believes nothing but the genesis. Every block is carried out again, every seal checked, and what
this node keeps (blocks, receipts, state, blobs, records) is compared with what follows from them.

    evidence.py   a copy of a node's chain, whether it runs or not
    replay.py     every block carried out again and compared
    ledger.py     what the contract's events say, told by members, plans and rounds
    holdings.py   blobs and records against their names and the chain
    report.py     all of it as data, with one digest that every member gets
    words.py      the same for people; page.py: as one page that needs no network
"""
