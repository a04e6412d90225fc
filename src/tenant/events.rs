//! What happens to clients, told to those who listen; a listener that is too slow misses some, and learns how many.

use tokio::sync::broadcast;

use super::ids::ClientId;

/// Events that a listener may be behind. Each is an identity and a word.
const CAPACITY: usize = 4096;

/// One thing that happened to a client. How far the client has come is to be asked of the roster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub id: ClientId,
    /// The GUID, or `tenant/dbName`.
    pub label: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    Registered,
    Unregistered,
    /// Something more of it is in the store, of which the oldest transaction had waited so long, in milliseconds.
    Synced {
        waited_ms: u64,
    },
    /// An attempt to store something failed, or the client is `failing` now.
    Failed,
}

/// What the notice of a rollback journal begins with that nobody has rolled back: it is told as a failure is.
pub const HOT_JOURNAL: &str = "hot_journal";

impl EventKind {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Registered => "registered",
            EventKind::Unregistered => "unregistered",
            EventKind::Synced { .. } => "synced",
            EventKind::Failed => "failed",
        }
    }
}

/// Where events are told. Clones tell the same listeners.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl Events {
    /// Follows what happens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    pub fn tell(&self, kind: EventKind, id: &ClientId, label: &str) {
        if self.0.receiver_count() > 0 {
            let (id, label) = (id.clone(), label.to_owned());
            // The last listener may have gone just now, which is no loss.
            drop(self.0.send(Event { kind, id, label }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::broadcast::error::TryRecvError;

    const SYNCED: EventKind = EventKind::Synced { waited_ms: 7 };

    #[test]
    fn a_slow_listener_learns_how_many_it_missed() {
        let events = Events::default();
        let id = ClientId::single("", "a");
        events.tell(EventKind::Registered, &id, "a");
        let mut listener = events.listen();
        assert_eq!(listener.try_recv(), Err(TryRecvError::Empty), "from now on");
        for _ in 0..CAPACITY + 3 {
            events.tell(SYNCED, &id, "a");
        }
        assert_eq!(listener.try_recv(), Err(TryRecvError::Lagged(3)));
        assert_eq!(listener.try_recv().expect("goes on").kind, SYNCED);
    }
}
