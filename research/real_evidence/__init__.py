"""Releases on real images: all figures by one command, and the page that shows them."""
