//! The calls that do something: register, pause, unregister, sync, make a snapshot.

use std::sync::Arc;

use serde_json::json;
use warp::http::StatusCode;

use super::access::{self, Access};
use super::bodies::{NewDatabase, NewStatus, Wish};
use super::calls::lookup;
use super::peer::Peer;
use super::query::Query;
use super::replies::{self, Refusal, Reply};
use super::routes::Named;
use super::{State, Wanted, validation, views};
use crate::replicate::SyncError;
use crate::tenant::request::Registered;
use crate::tenant::roster::Client;

/// Without a token a file is registered for whoever owns it, or the folder that it would be made in, and where its objects
/// lie is for the administrator to say: else anybody could take a name or a place, or have any file uploaded.
pub async fn register(state: &State, body: NewDatabase, peer: Peer) -> Result<Reply, Refusal> {
    let roots: Vec<_> = (state.mounts)()
        .into_iter()
        .map(|mount| mount.mountpoint)
        .collect();
    let request = validation::registration(body, &roots)?;
    let access = match request.s3_prefix {
        Some(_) => Access::Administrator,
        None => Access::Owner,
    };
    access::check_user(state.token.as_ref(), access, peer, || {
        (state.owner_of_place)(&request)
    })?;
    let registered = (state.changes.register)(request).await?;
    let status = match &registered {
        Registered::New(_) => StatusCode::CREATED,
        Registered::Known(_) => StatusCode::OK,
    };
    Ok(database(status, registered.client()))
}

pub async fn set_status(
    state: &State,
    client: Arc<Client>,
    body: NewStatus,
) -> Result<Reply, Refusal> {
    (state.changes.set_paused)(client.clone(), body.status == Wish::Paused).await?;
    Ok(database(StatusCode::OK, &client))
}

pub async fn unregister(state: &State, client: Arc<Client>) -> Result<Reply, Refusal> {
    (state.changes.unregister)(client).await?;
    Ok(replies::nothing())
}

pub async fn wait_for(
    state: &State,
    wanted: Wanted,
    named: &Named,
    query: &Query,
) -> Result<Reply, Refusal> {
    let timeout = query.timeout()?;
    let client = lookup(state, named, query)?;
    let synced = (state.sync)(wanted, client, timeout)
        .await
        .map_err(|error| {
            let (status, code) = match &error {
                SyncError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
                SyncError::NotActive(_) => (StatusCode::CONFLICT, "not_active"),
                SyncError::Empty => (StatusCode::CONFLICT, "empty"),
            };
            Refusal::new(status, code, error.to_string())
        })?;
    let body = json!({"txid": synced.txid, "durationMs": synced.duration.as_millis() as u64});
    Ok(replies::json(StatusCode::OK, &body))
}

fn database(status: StatusCode, client: &Client) -> Reply {
    let view = views::database(client, client.progress().status);
    replies::json(status, &view)
}
