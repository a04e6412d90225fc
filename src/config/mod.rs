//! The configuration: the file as written, and the configuration as meant.
