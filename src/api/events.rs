//! Server-sent events: what happens to clients, each with how far the client has come by then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use warp::Reply as _;

use super::replies::{self, Refusal, Reply};
use super::{State, views};
use crate::clock;
use crate::tenant::events::{Event, EventKind};

pub const CONTENT_TYPE: &str = "text/event-stream";
/// Listeners at one time.
pub const MAX_LISTENERS: usize = 32;
/// After so much silence a comment is sent, so that both sides notice a connection that is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Browsers come back after this many milliseconds. Sent at once, so that a listener knows that it is heard.
const GREETING: &str = "retry: 2000\n\n";

/// One who listens.
struct Listener {
    state: Arc<State>,
    events: broadcast::Receiver<Event>,
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// Everything that happens from now on, until the server ends.
pub fn follow(state: &Arc<State>) -> Result<Reply, Refusal> {
    let permit = state.listeners.clone().try_acquire_owned().map_err(|_| {
        Refusal::busy(format!(
            "{MAX_LISTENERS} listeners are there already; end one of them"
        ))
    })?;
    let listener = Listener {
        state: state.clone(),
        events: state.roster.events().listen(),
        closing: state.closing.subscribe(),
        _permit: permit,
    };
    let greeting = stream::iter([GREETING.to_owned()]);
    let events = stream::unfold(listener, async |mut listener| {
        let text = listener.next().await?;
        Some((text, listener))
    });
    let texts = greeting.chain(events).map(Ok::<_, Infallible>);
    let reply = warp::reply::stream(texts).into_response();
    Ok(replies::media(CONTENT_TYPE, reply))
}

impl Listener {
    /// What to send next; none at the end of the server.
    async fn next(&mut self) -> Option<String> {
        loop {
            let received = tokio::select! {
                _ = self.closing.wait_for(|closing| *closing) => return None,
                received = self.events.recv() => received,
                () = tokio::time::sleep(HEARTBEAT) => return Some(": still here\n\n".to_owned()),
            };
            match received {
                Ok(event) => {
                    if let Some(text) = self.text(&event) {
                        return Some(text);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    return Some(message("missed", &json!({"missed": missed})));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// None where the client is gone, which another event tells.
    fn text(&self, event: &Event) -> Option<String> {
        let kind = event.kind.as_str();
        if event.kind == EventKind::Unregistered {
            return Some(message(kind, &views::identity(event)));
        }
        let client = self.state.roster.get(&event.id)?;
        let view = views::event(event.kind, &client, clock::now_ms());
        Some(message(kind, &view))
    }
}

fn message(event: &str, data: &impl serde::Serialize) -> String {
    // JSON has no line breaks but escaped ones.
    let data = serde_json::to_string(data).expect("BUG: an event that is no JSON");
    format!("event: {event}\ndata: {data}\n\n")
}
