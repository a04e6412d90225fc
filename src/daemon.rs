//! The wiring of all parts into one running instance.

use crate::config::Config;

/// Why an instance could not start, or ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`mount` is not supported yet by this version")]
    NotYet,
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::NotYet => 2,
        }
    }
}

/// Mounts, replicates and serves the API until told to stop.
pub async fn run(_config: Config) -> Result<(), Error> {
    Err(Error::NotYet)
}
