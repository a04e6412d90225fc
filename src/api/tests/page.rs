//! The page in a real browser (Debian's chromium), with 10,000 clients.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::Served;
use crate::clock::now_ms;
use crate::format::keys::GenerationId;
use crate::store::spec::Secret;
use crate::tenant::roster::{Client, Status};

const CLIENTS: usize = 10_000;
const TOKEN: &str = "a-token-for-the-page";

#[tokio::test(flavor = "multi_thread")]
async fn people_find_their_client_among_ten_thousand() {
    let api = Served::start_for(2 * CLIENTS, |_| {}).await;
    for n in 0..CLIENTS {
        made_up(&api, n);
    }
    let guarded = Served::start_with(|state| state.token = Some(Secret(TOKEN.to_owned()))).await;
    guarded.register("", "behind-a-token");
    let mut busy = api.roster.all();
    busy.retain(|client| client.progress().status == Status::Active);
    // Those that stand first among equals, so that they are seen.
    busy.truncate(20);
    let busy = tokio::spawn(commit_now_and_then(busy));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("target/python/bin/python"));
    command
        .arg(root.join("tests/python/page.py"))
        .arg(format!("http://{}", api.addr))
        .arg(format!("http://{}", guarded.addr))
        .arg(TOKEN)
        .arg(root.join("target/page"))
        // To look at pictures of how the page is after so many seconds.
        .args(std::env::var_os("PAGE_PICTURES_AFTER"));
    let ran = tokio::task::spawn_blocking(move || command.output());
    let output = ran.await.expect("it runs").expect("tests/run has made it");
    busy.abort();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A client as one may be: most are fine.
fn made_up(api: &Served, n: usize) {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let guid = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        mixed >> 32,
        mixed >> 16 & 0xffff,
        mixed & 0xfff,
        mixed >> 40 & 0xfff,
        mixed.rotate_left(23) >> 16
    );
    let client = api.register(["", "eu"][n % 7 / 6], &guid);
    let now = now_ms();
    client.update(|progress| {
        progress.txid = 1 + mixed % 90_000;
        progress.replicated_txid = progress.txid;
        progress.database_bytes = Some(4096 * (1 + mixed % 60_000));
        progress.generation = Some(GenerationId(0x0000_019a_b5c3_0000_u64 + mixed % 0xffff));
        progress.last_sync_at = Some(now - (mixed % 90_000) as i64);
        let (status, error) = match n {
            17 | 4_711 => (
                Status::Failing,
                "store: databases/…/00000031.wal: the store refused access (AccessDenied); check the credentials and their policy",
            ),
            303 => (Status::Gapped, "gapped: mount.gateTimeout was reached"),
            808 | 809 => (Status::Missing, "missing: the file was gone at start"),
            n if n % 1_999 == 5 => (Status::Paused, ""),
            _ => (Status::Active, ""),
        };
        progress.status = status;
        progress.last_error = Some(error.to_owned()).filter(|error| !error.is_empty());
        if matches!(status, Status::Failing | Status::Gapped) {
            progress.oldest_pending_at = Some(now - 40_000 - n as i64);
            progress.pending_bytes = 3 << 20;
            progress.txid += 12;
            progress.sync_errors = 9;
        }
    });
}

/// Clients commit, each at its own pace, and are stored a moment later.
async fn commit_now_and_then(clients: Vec<Arc<Client>>) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for round in 0.. {
        tick.tick().await;
        let now = now_ms();
        for (n, client) in clients.iter().enumerate() {
            let pace = 9 + 5 * n;
            client.update(|progress| match round % pace {
                0 => {
                    progress.txid += 3;
                    progress.oldest_pending_at = Some(now);
                }
                then if then == 1 + (n + round / pace) % 8 => {
                    progress.oldest_pending_at = None;
                    progress.last_sync_at = Some(now);
                    progress.replicated_txid = progress.txid;
                }
                _ => {}
            });
        }
    }
}
