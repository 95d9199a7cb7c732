"""Attacks, one module for each way in; what each of them must not achieve is in SECURITY.md."""
