//! `demo`.
use super::Failure;
pub(super) fn run() -> Result<(), Failure> {
    Err(super::args::not_yet("demo"))
}
