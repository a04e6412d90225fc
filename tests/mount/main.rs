//! What is shown through a real mount, with the real binary; each capability has its file.

mod demo;
mod kills;
mod load;
mod outages;
mod phantoms;
mod straight_path;
#[path = "../support/mod.rs"]
mod support;
