"""What libp2p uses of fastecdsa, on top of `cryptography`. Why: see this package's README.

Names and signatures are those of fastecdsa 2.3.2, since libp2p calls them.
"""
