//! The calls that only look: databases, and how far they have come.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use warp::http::StatusCode;

use super::query::{AskedFor, IGNORED, Query};
use super::replies::{self, Refusal, Reply};
use super::{State, views};
use crate::clock;
use crate::tenant::roster::{Client, Status};

pub fn databases(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let asked = query.asked_for()?;
    let clients = clients(state, query);
    let mut views: Vec<_> = clients
        .iter()
        .map(|client| (client, client.progress().status))
        .filter(|(_, has)| asked.includes(*has))
        .map(|(client, status)| views::database(client, status))
        .collect();
    let files = files(state, query, asked).into_iter();
    views.extend(files.map(|view| view.database));
    let body = json!({"databases": views, "total": views.len()});
    Ok(replies::json(StatusCode::OK, &body))
}

/// Those clients that the query means by tenant and prefix.
fn clients(state: &State, query: &Query) -> Vec<Arc<Client>> {
    let (tenant, prefix) = (query.text("tenant"), query.text("prefix"));
    let mut clients = state.roster.all();
    clients.retain(|client| {
        tenant.is_none_or(|tenant| *client.id.tenant == *tenant)
            && prefix.is_none_or(|prefix| *client.id.prefix == *prefix)
    });
    clients
}

/// Files that look like databases and are none: those that are ignored, or those that another one keeps from their
/// identity. They have no tenant, and the prefix of their watch path.
fn files(state: &State, query: &Query, asked: AskedFor) -> Vec<views::HealthView> {
    if query.text("tenant").is_some() {
        return Vec::new();
    }
    let found = match asked {
        AskedFor::Ignored => {
            let files = state.roster.ignored().into_iter();
            files
                .map(|(path, reason)| (path, reason.to_owned()))
                .collect()
        }
        AskedFor::Only(Status::Refused) => {
            let files = state.roster.waiting().all().into_iter();
            files
                .map(|file| (file.path.clone(), file.reason()))
                .collect()
        }
        AskedFor::All | AskedFor::Only(_) => Vec::new(),
    };
    let mounts = (state.mounts)();
    let prefix_of = |path: &Path| {
        let above = mounts
            .iter()
            .find(|mount| path.starts_with(&mount.mountpoint));
        above.map_or("", |mount| mount.prefix.as_str())
    };
    let status = match asked {
        AskedFor::Ignored => IGNORED,
        AskedFor::All | AskedFor::Only(_) => Status::Refused.as_str(),
    };
    let mut found: Vec<(PathBuf, String)> = found;
    found.retain(|(path, _)| {
        query
            .text("prefix")
            .is_none_or(|prefix| prefix_of(path) == prefix)
    });
    found
        .into_iter()
        .map(|(path, reason)| views::file(&path, prefix_of(&path), status, reason))
        .collect()
}

pub fn health(state: &State) -> Reply {
    let clients: Vec<_> = state
        .roster
        .all()
        .iter()
        .map(|client| client.progress())
        .collect();
    let view = views::instance(views::Instance {
        clients: &clients,
        mounts: (state.mounts)(),
        store: (state.store_health)(),
        is_ready: state.is_ready(),
        max_lag: state.max_lag,
        uptime: state.started.elapsed(),
        now: clock::now_ms(),
    });
    let status = match view.status {
        "failing" | "starting" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    replies::json(status, &view)
}

pub fn clients_health(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let now = clock::now_ms();
    let asked = query.asked_for()?;
    let clients = clients(state, query);
    let mut views: Vec<_> = clients
        .iter()
        .filter(|client| asked.includes(client.progress().status))
        .map(|client| views::health(client, now))
        .collect();
    views.extend(files(state, query, asked));
    Ok(replies::json(StatusCode::OK, &json!({"clients": views})))
}

pub fn client_health(client: &Client) -> Reply {
    let view = views::health(client, clock::now_ms());
    replies::json(StatusCode::OK, &view)
}
