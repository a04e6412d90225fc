//! One request in, one answer out: who may ask, which call it is, and who answers that.

use std::sync::Arc;

use bytes::Buf;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use warp::Filter;
use warp::http::{HeaderMap, Method, StatusCode};

use super::access::{Access, Asker};
use super::connections::{MAX_CONNECTIONS, MAX_OF_PEER, Place};
use super::query::Query;
use super::replies::{self, Refusal, Reply};
use super::routes::{self, Call, Named, NoCall};
use super::{
    State, Wanted, access, bodies, changes, events, exposition, metrics, openapi, page, reads,
    replicas,
};
use crate::clock;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::Client;

/// A body, which is read by those calls that take one.
type Body = BoxStream<'static, Result<Box<dyn Buf + Send>, warp::Error>>;

/// A request as it came.
struct Asked {
    method: Method,
    path: warp::path::FullPath,
    /// None where it can't be read.
    query: Option<Vec<(String, String)>>,
    headers: HeaderMap,
    asker: Asker,
}

/// The filter that answers everything.
pub fn filter(
    state: Arc<State>,
) -> impl Filter<Extract = (Reply,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::<Vec<(String, String)>>()
        .map(Some)
        .or(warp::any().map(|| None))
        .unify();
    let body = warp::body::stream().map(boxed);
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(body)
        .and(warp::ext::get::<Asker>())
        .then(move |method, path, query, headers, mut body, asker| {
            let state = state.clone();
            let asked = Asked {
                method,
                path,
                query,
                headers,
                asker,
            };
            async move {
                match answer(&state, asked, &mut body).await {
                    Ok(reply) => reply,
                    Err(refusal) => {
                        bodies::discard(body).await;
                        refusal.into()
                    }
                }
            }
        })
}

fn boxed<B: Buf + Send + 'static>(
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Body {
    body.map(|part| part.map(|part| Box::new(part) as Box<dyn Buf + Send>))
        .boxed()
}

async fn answer(state: &Arc<State>, asked: Asked, body: &mut Body) -> Result<Reply, Refusal> {
    let (method, path) = (&asked.method, asked.path.as_str());
    let found = routes::find(method, path);
    let access = found
        .as_ref()
        .map_or(Access::Token, |(route, _)| route.access);
    let token = state.token.as_ref();
    access::check(token, access, &asked.asker, &asked.headers)?;
    let (route, call) = found.map_err(|no_call| no_such_call(method, path, no_call))?;
    let connection = &asked.asker.connection;
    if connection.place == Place::Spare && call != Call::Health {
        return Err(too_many());
    }
    if !state.is_ready() && access != Access::Open {
        return Err(Refusal::starting());
    }
    let query = Query::new(asked.query, route.query)?;
    let lookup = |named| -> Result<Arc<Client>, Refusal> {
        let client = lookup(state, named, &query)?;
        access::check_user(token, access, connection.peer, || (state.owner)(&client))?;
        Ok(client)
    };
    match call {
        Call::Databases => reads::databases(state, &query),
        Call::Register => {
            let body = bodies::read(body).await?;
            changes::register(state, body, connection.peer).await
        }
        Call::SetStatus(named) => {
            let client = lookup(&named)?;
            changes::set_status(state, client, bodies::read(body).await?).await
        }
        Call::Unregister(named) => changes::unregister(state, lookup(&named)?).await,
        Call::Sync(named) => changes::wait_for(state, Wanted::Sync, &named, &query).await,
        Call::Snapshot(named) => changes::wait_for(state, Wanted::Snapshot, &named, &query).await,
        Call::Moments(named) => replicas::moments(state, lookup(&named)?).await,
        Call::Download(named) => {
            let client = lookup(&named)?;
            replicas::download(state, client, query.target()?).await
        }
        Call::Health => Ok(reads::health(state)),
        Call::ClientsHealth => reads::clients_health(state, &query),
        Call::ClientHealth(named) => {
            let client = lookup(&named)?;
            Ok(reads::client_health(&client))
        }
        Call::Events => events::follow(state),
        Call::Metrics => {
            let text = metrics::render(&state.roster.all(), clock::now_ms());
            Ok(replies::text(exposition::CONTENT_TYPE, text))
        }
        Call::OpenApi => {
            let document = openapi::document(state.token.is_some());
            Ok(replies::json(StatusCode::OK, &document))
        }
        Call::Page(file) => Ok(page::reply(file)),
    }
}

fn too_many() -> Refusal {
    Refusal::busy(format!(
        "there are {MAX_OF_PEER} connections of this user or host, or {MAX_CONNECTIONS} in all: beyond that only /api/health is answered; end some of them"
    ))
}

fn no_such_call(method: &Method, path: &str, no_call: NoCall) -> Refusal {
    match no_call {
        NoCall::UnknownPath => Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_route",
            format!("there is nothing at {path}"),
        ),
        NoCall::WrongMethod(allowed) => Refusal::wrong_method(
            format!("{path} has no {method}, but {}", allowed.join(" and ")),
            &allowed,
        ),
        NoCall::NoText => Refusal::new(
            StatusCode::BAD_REQUEST,
            "bad_id",
            format!("{path} names something that is no text"),
        ),
    }
}

/// The client of that name; of several with different prefixes the query has to say which.
pub fn lookup(state: &State, named: &Named, query: &Query) -> Result<Arc<Client>, Refusal> {
    let Named { tenant, db_name } = named;
    let mut found = match query.text("prefix") {
        Some(prefix) => {
            let id = ClientId {
                db_name: db_name.as_str().into(),
                ..ClientId::single(prefix, tenant)
            };
            state.roster.get(&id).into_iter().collect()
        }
        None => {
            let mut clients = state.roster.all();
            clients
                .retain(|client| *client.id.tenant == **tenant && *client.id.db_name == **db_name);
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
            let candidates: Vec<_> = found.iter().map(|client| client.full_label()).collect();
            let candidates = candidates.join(", ");
            Err(Refusal::new(
                StatusCode::CONFLICT,
                "ambiguous_client",
                format!("say which with ?prefix=, of these: {candidates}"),
            ))
        }
    }
}
