"""One round of message passing: arithmetic alone; where values come from is the backends' affair."""
