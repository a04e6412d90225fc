//! What is asked of the roster from outside, by name and path, and why it may not be done.

use std::path::PathBuf;
use std::sync::Arc;

use super::roster::Client;

/// A database to register, as the request had it: names and paths are plain text of a bounded length, and nothing more
/// is known of them. `tenant_id` or `client_id` is there, never both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterRequest {
    pub tenant_id: Option<String>,
    /// The stem of `db_path`'s file name.
    pub db_name: Option<String>,
    pub client_id: Option<String>,
    /// Absolute, as applications see it, without `.` and `..`.
    pub db_path: Option<PathBuf>,
    /// Below STORE, without a slash at either end.
    pub s3_prefix: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Registered {
    New(Arc<Client>),
    /// It was registered so already.
    Known(Arc<Client>),
}

impl Registered {
    pub fn client(&self) -> &Arc<Client> {
        match self {
            Self::New(client) | Self::Known(client) => client,
        }
    }
}

/// Why it was not done. `code` is a word in snake case for programs, `message` one sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The id, the name or the path can't be registered at all.
    #[error("{message}")]
    Invalid { code: &'static str, message: String },
    /// The identity, the path or the prefix belongs to another database.
    #[error("{message}")]
    Taken { code: &'static str, message: String },
    #[error("{message}")]
    Limit { code: &'static str, message: String },
    /// It can't be noted at present; nothing has changed.
    #[error("{message}")]
    Unavailable { code: &'static str, message: String },
}

impl RequestError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { code, .. }
            | Self::Taken { code, .. }
            | Self::Limit { code, .. }
            | Self::Unavailable { code, .. } => code,
        }
    }
}
