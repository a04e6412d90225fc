//! Restores: a plan carried out into a file, or into nothing but checksums.
