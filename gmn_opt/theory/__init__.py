"""What graph metanetworks can express in principle, for tests and for study."""
