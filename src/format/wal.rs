//! The write-ahead log's headers and checksums.
