//! The store in an S3 bucket. The only place that names the SDK.
