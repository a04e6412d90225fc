//! What is shown through a real mount, with the real binary; each capability has its file.

mod api;
mod bad_databases;
mod bad_input;
mod bypass;
mod changes;
mod containers;
mod demo;
mod drills;
mod encryption;
mod foreign;
mod holds;
mod isolation;
mod journals;
mod kills;
mod lifetimes;
mod load;
mod logs;
mod metrics;
mod mount_helper;
mod ordinary_user;
mod outages;
mod phantoms;
mod restore_all;
mod rivals;
mod secrets;
mod service;
mod status;
mod stops;
mod straight_path;
mod supervision;
#[path = "../support/mod.rs"]
mod support;
mod take_over;
mod tenant_stores;
mod tenants;
mod upkeep;
