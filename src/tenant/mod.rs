//! Who the clients are: identities, the rules that find them by file name, what holds for each, and the roster of
//! those that are known.

pub mod claims;
pub mod client;
pub mod cpu;
pub mod discovery;
pub mod events;
pub mod ids;
pub mod pace;
pub mod places;
pub mod policy;
pub mod position;
pub mod progress;
pub mod request;
pub mod roster;
pub mod terms;
mod waiting;
