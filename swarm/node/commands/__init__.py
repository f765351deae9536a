"""What people may ask a running node, one module for each kind, over one local socket."""
