//! The calls that read replicas: what can be restored, and a database as it was.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::Reply as _;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderName, HeaderValue};

use super::State;
use super::replies::{self, Refusal, Reply};
use crate::clock::rfc3339;
use crate::restore::{RestoreError, Target};
use crate::tenant::roster::Client;

/// Lists of moments that are made at one time: each makes requests of the store.
pub const MAX_LISTS: usize = 4;
/// Downloads at one time: each takes local disk, for as long as it is taken.
pub const MAX_DOWNLOADS: usize = 4;
pub const CONTENT_TYPE: &str = "application/vnd.sqlite3";
/// Bytes of a piece of a download.
const PIECE: u64 = 256 << 10;

pub async fn moments(state: &State, client: Arc<Client>) -> Result<Reply, Refusal> {
    let _permit = permit(&state.lists, MAX_LISTS, "list moments")?;
    let generations = (state.moments)(client).await.map_err(refusal)?;
    let body = json!({"generations": generations});
    Ok(replies::json(StatusCode::OK, &body))
}

/// Restores to a file that nobody else sees, and sends it: what is sent is verified, or nothing is.
pub async fn download(
    state: &State,
    client: Arc<Client>,
    target: Target,
) -> Result<Reply, Refusal> {
    let permit = permit(&state.downloads, MAX_DOWNLOADS, "download databases")?;
    let name = file_name(&client.id.db_name);
    let (restored, file) = (state.restore)(client, target).await.map_err(refusal)?;
    let len = u64::from(restored.pages) * u64::from(restored.page_size);
    let pieces = Pieces {
        file: Arc::new(file),
        sent: 0,
        len,
        _permit: permit,
    };
    let pieces = stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.next().await?;
        Some((piece, pieces))
    });
    let mut reply = replies::media(CONTENT_TYPE, warp::reply::stream(pieces).into_response());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, len.into());
    let mut insert = |name: HeaderName, value: String| {
        let value = HeaderValue::try_from(value);
        headers.insert(name, value.expect("BUG: a header of other than ASCII"));
    };
    let disposition = format!("attachment; filename=\"{name}.db\"");
    insert(CONTENT_DISPOSITION, disposition);
    let own = HeaderName::from_static;
    insert(own("litestream-txid"), restored.txid.to_string());
    insert(own("litestream-time"), rfc3339(restored.time_ms));
    Ok(reply)
}

/// A database's name, as a name of a file anywhere.
fn file_name(db_name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    db_name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

/// What is still to be sent of a file.
struct Pieces {
    file: Arc<File>,
    sent: u64,
    len: u64,
    _permit: OwnedSemaphorePermit,
}

impl Pieces {
    /// None at the end. An error ends the connection, so that nobody takes a part for the whole.
    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        let len = PIECE.min(self.len - self.sent);
        if len == 0 {
            return None;
        }
        let (file, offset) = (self.file.clone(), self.sent);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; len as usize];
            file.read_exact_at(&mut piece, offset)?;
            Ok(Bytes::from(piece))
        });
        self.sent += len;
        Some(read.await.unwrap_or_else(|gone| Err(gone.into())))
    }
}

fn permit(
    places: &Arc<Semaphore>,
    most: usize,
    what: &str,
) -> Result<OwnedSemaphorePermit, Refusal> {
    places
        .clone()
        .try_acquire_owned()
        .map_err(|_| Refusal::busy(format!("{most} {what} already; try it later")))
}

fn refusal(error: RestoreError) -> Refusal {
    let (status, code) = match &error {
        RestoreError::UnknownReplica { .. } => (StatusCode::NOT_FOUND, "nothing_stored"),
        error if error.is_unknown() => (StatusCode::NOT_FOUND, "unknown_moment"),
        error if error.is_damage() => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
        RestoreError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "not_restored"),
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(operation = "restore", error = %error, "A download failed");
    }
    Refusal::new(status, code, error.to_string())
}
