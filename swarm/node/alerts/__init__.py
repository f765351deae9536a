"""What a person must see to, posted to a webhook once.

`causes.py` finds it, `alerting.py` says when, `webhook.py` how.
"""
