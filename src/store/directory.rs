//! The store in a directory: the embedded default.
