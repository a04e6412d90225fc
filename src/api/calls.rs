//! One request in, one answer out: who may ask, what the query says, and what each call answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use warp::Filter;
use warp::http::header::{HOST, ORIGIN};
use warp::http::{HeaderMap, Method, StatusCode};

use super::replies::{self, Refusal, Reply};
use super::routes::{self, Call, NoCall};
use super::{State, Wanted, metrics, views};
use crate::clock;
use crate::format::quantity;
use crate::replicate::SyncError;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Status};

/// How long a sync may be waited for, unless the query says otherwise, and at most.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_SYNC_TIMEOUT: Duration = Duration::from_secs(300);

/// The parameters of a query, in order.
type Query = Vec<(String, String)>;

/// The filter that answers everything. Bodies are never read.
pub fn filter(
    state: Arc<State>,
) -> impl Filter<Extract = (Reply,), Error = std::convert::Infallible> + Clone + Send + Sync + 'static
{
    let query = warp::query::<Query>()
        .map(Some)
        .or(warp::any().map(|| None))
        .unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .then(
            move |method: Method, path: warp::path::FullPath, query: Option<Query>, headers| {
                let state = state.clone();
                async move {
                    answer(&state, &method, path.as_str(), query, &headers)
                        .await
                        .unwrap_or_else(Reply::from)
                }
            },
        )
}

async fn answer(
    state: &State,
    method: &Method,
    path: &str,
    query: Option<Query>,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    refuse_foreign(headers)?;
    let call = routes::find(method, path).map_err(|no_call| refusal(method, path, no_call))?;
    let query = query.ok_or_else(|| Refusal::bad_query("the query can't be read"))?;
    match call {
        Call::Databases => databases(state, &query),
        Call::Sync { tenant, db_name } => {
            sync(state, &query, Wanted::Sync, &tenant, &db_name).await
        }
        Call::Snapshot { tenant, db_name } => {
            sync(state, &query, Wanted::Snapshot, &tenant, &db_name).await
        }
        Call::Health => health(state, &query),
        Call::ClientsHealth => clients_health(state, &query),
        Call::ClientHealth { tenant, db_name } => client_health(state, &query, &tenant, &db_name),
        Call::Metrics => {
            let text = metrics::render(&state.roster.all(), clock::now_ms());
            Ok(replies::text(metrics::CONTENT_TYPE, text))
        }
        Call::NotYet => Err(Refusal::not_yet(&format!("{method} {path}"))),
    }
}

/// A page of another site must not reach the API through a browser, neither openly (Origin) nor by giving its own
/// name our address (Host).
fn refuse_foreign(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |header: &str| {
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_request",
            format!("the {header} is not this API's own; use its loopback address"),
        ))
    };
    let host = match headers.get(HOST).map(|host| host.to_str()) {
        None => None,
        Some(Ok(host)) if is_loopback(host) => Some(host),
        Some(_) => return refused("Host"),
    };
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().ok().and_then(|o| o.strip_prefix("http://"));
    if origin.is_some() && origin == host {
        return Ok(());
    }
    refused("Origin")
}

/// Whether a Host header, with its port or without, names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.is_loopback();
    name == "localhost" || address.parse().is_ok_and(is_loopback)
}

fn refusal(method: &Method, path: &str, no_call: NoCall) -> Refusal {
    match no_call {
        NoCall::UnknownPath => Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_route",
            format!("there is nothing at {path}"),
        ),
        NoCall::WrongMethod(allowed) => Refusal {
            allow: Some(allowed.join(", ")),
            ..Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong_method",
                format!("{path} has no {method}, but {}", allowed.join(" and ")),
            )
        },
    }
}

/// The value of a parameter. The query may have the `known` ones, each once.
fn parameter<'a>(query: &'a Query, known: &[&str], name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for (key, value) in query {
        if !known.contains(&key.as_str()) {
            let known = known.join(", ");
            return Err(Refusal::bad_query(format!(
                "there is no parameter {key:?}; known here: {known}"
            )));
        }
        if key == name && found.replace(value.as_str()).is_some() {
            return Err(Refusal::bad_query(format!("{key:?} is given twice")));
        }
    }
    Ok(found)
}

fn status_parameter(query: &Query, known: &[&str]) -> Result<Option<Status>, Refusal> {
    let Some(word) = parameter(query, known, "status")? else {
        return Ok(None);
    };
    if word == "ignored" {
        return Err(Refusal::not_yet("status=ignored"));
    }
    Status::ALL
        .into_iter()
        .find(|status| status.as_str() == word)
        .map(Some)
        .ok_or_else(|| Refusal::bad_query(format!("there is no status {word:?}")))
}

fn databases(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let known = ["tenant", "status", "prefix"];
    let tenant = parameter(query, &known, "tenant")?;
    let prefix = parameter(query, &known, "prefix")?;
    let status = status_parameter(query, &known)?;
    let databases: Vec<_> = state
        .roster
        .all()
        .iter()
        .filter(|client| tenant.is_none_or(|tenant| client.id.tenant == tenant))
        .filter(|client| prefix.is_none_or(|prefix| client.id.prefix == prefix))
        .map(|client| (client, client.progress().status))
        .filter(|(_, has)| status.is_none_or(|status| status == *has))
        .map(|(client, status)| views::database(client, status, &state.watch_path))
        .collect();
    let total = databases.len();
    let body = json!({"databases": databases, "total": total});
    Ok(replies::json(StatusCode::OK, &body))
}

async fn sync(
    state: &State,
    query: &Query,
    wanted: Wanted,
    tenant: &str,
    db_name: &str,
) -> Result<Reply, Refusal> {
    let known = ["timeout", "prefix"];
    let timeout = match parameter(query, &known, "timeout")? {
        None => SYNC_TIMEOUT,
        Some(text) => quantity::duration(text)
            .ok()
            .filter(|timeout| *timeout <= MAX_SYNC_TIMEOUT)
            .ok_or_else(|| {
                Refusal::bad_query(format!("timeout={text} is no duration of at most 5m"))
            })?,
    };
    let client = lookup(state, tenant, db_name, parameter(query, &known, "prefix")?)?;
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

fn health(state: &State, query: &Query) -> Result<Reply, Refusal> {
    parameter(query, &[], "")?;
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
    Ok(replies::json(status, &view))
}

fn clients_health(state: &State, query: &Query) -> Result<Reply, Refusal> {
    let known = ["status", "prefix"];
    let prefix = parameter(query, &known, "prefix")?;
    let status = status_parameter(query, &known)?.map(Status::as_str);
    let now = clock::now_ms();
    let clients: Vec<_> = state
        .roster
        .all()
        .iter()
        .filter(|client| prefix.is_none_or(|prefix| client.id.prefix == prefix))
        .map(|client| views::health(client, &state.watch_path, now))
        .filter(|view| status.is_none_or(|status| view.database.status == status))
        .collect();
    Ok(replies::json(StatusCode::OK, &json!({"clients": clients})))
}

fn client_health(
    state: &State,
    query: &Query,
    tenant: &str,
    db_name: &str,
) -> Result<Reply, Refusal> {
    let prefix = parameter(query, &["prefix"], "prefix")?;
    let client = lookup(state, tenant, db_name, prefix)?;
    let view = views::health(&client, &state.watch_path, clock::now_ms());
    Ok(replies::json(StatusCode::OK, &view))
}

/// The client of that name; of several with different prefixes the query has to say which.
fn lookup(
    state: &State,
    tenant: &str,
    db_name: &str,
    prefix: Option<&str>,
) -> Result<Arc<Client>, Refusal> {
    let mut found = match prefix {
        Some(prefix) => {
            let id = ClientId {
                prefix: prefix.to_owned(),
                tenant: tenant.to_owned(),
                db_name: db_name.to_owned(),
            };
            state.roster.get(&id).into_iter().collect()
        }
        None => {
            let mut clients = state.roster.all();
            clients.retain(|client| client.id.tenant == tenant && client.id.db_name == db_name);
            clients
        }
    };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_client",
            format!("there is no client {tenant}/{db_name}"),
        )),
        _ => {
            let candidates: Vec<_> = found.iter().map(|client| client.id.to_string()).collect();
            Err(Refusal::new(
                StatusCode::CONFLICT,
                "ambiguous_client",
                format!(
                    "say which with ?prefix=, of these: {}",
                    candidates.join(", ")
                ),
            ))
        }
    }
}
