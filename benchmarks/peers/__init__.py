"""npconv and the libraries it is compared with: one module each, which imports that library alone.

Such a module offers ``tasks(threads, dtype)``: a dict from the kind of a row (rows.py) to a function that takes the
row's subject and returns what to time, by variant.  Where a library can do one thing in several ways (the layout of the
images, say), each is a variant, and the fastest counts.  ``to_numpy`` makes arrays of what a task returns.
"""
