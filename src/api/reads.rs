//! The calls that only look: databases, and how far they have come.

use serde_json::json;
use warp::http::StatusCode;

use super::query::Query;
use super::replies::{self, Refusal, Reply};
use super::{State, views};
use crate::clock;
use crate::tenant::roster::{Client, Status};

pub fn databases(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let tenant = query.text("tenant");
    let prefix = query.text("prefix");
    let status = query.status()?;
    let databases: Vec<_> = state
        .roster
        .all()
        .iter()
        .filter(|client| tenant.is_none_or(|tenant| client.id.tenant == tenant))
        .filter(|client| prefix.is_none_or(|prefix| client.id.prefix == prefix))
        .map(|client| (client, client.progress().status))
        .filter(|(_, has)| status.is_none_or(|status| status == *has))
        .map(|(client, status)| views::database(client, status))
        .collect();
    let total = databases.len();
    let body = json!({"databases": databases, "total": total});
    Ok(replies::json(StatusCode::OK, &body))
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
        max_lag: state.max_lag,
        uptime: state.started.elapsed(),
        now: clock::now_ms(),
    });
    let status = match view.status {
        "failing" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    replies::json(status, &view)
}

pub fn clients_health(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let prefix = query.text("prefix");
    let status = query.status()?.map(Status::as_str);
    let now = clock::now_ms();
    let clients: Vec<_> = state
        .roster
        .all()
        .iter()
        .filter(|client| prefix.is_none_or(|prefix| client.id.prefix == prefix))
        .map(|client| views::health(client, now))
        .filter(|view| status.is_none_or(|status| view.database.status == status))
        .collect();
    Ok(replies::json(StatusCode::OK, &json!({"clients": clients})))
}

pub fn client_health(client: &Client) -> Reply {
    let view = views::health(client, clock::now_ms());
    replies::json(StatusCode::OK, &view)
}
