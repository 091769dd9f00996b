"""The kernel of this machine as a witness. Nothing here is imported before a reader asks for it."""
