"""Nano: a miniature of every component of the method, trained from nothing on the portrait world."""
