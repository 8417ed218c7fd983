"""Nano: a miniature of every component of the method, trained from scratch on the portrait world."""
