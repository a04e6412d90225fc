//! Plans made from what a listing shows: values that can be printed, carried out elsewhere.
