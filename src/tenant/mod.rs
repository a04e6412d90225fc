//! Who the clients are: identities, the rules that find them by file name, and the roster of those that are known.

pub mod discovery;
pub mod events;
pub mod ids;
pub mod request;
pub mod roster;
