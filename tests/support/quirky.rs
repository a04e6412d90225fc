//! An S3 server in memory that does what one store or another is known to do: what it refuses, ignores, and leaves out.
//!
//! One request a connection. It looks at the access key of a signature, and not at the signature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use litestream_multitenant::clock::now_ms;
use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

use super::daemon::S3;

const BUCKET: &str = "replicas";
const KEY: &str = "AKIATEST";
const SECRET: &str = "a-secret-of-tests";
/// How long a writer of a server that looks first waits for another one.
const OTHER_WRITER: Duration = Duration::from_millis(300);

/// What becomes of a PUT that must not replace anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Honoured,
    /// The header alone makes it answer so.
    Refused(u16, &'static str),
    Ignored,
    /// Google's header is honoured, and the other one ignored.
    Google,
    /// There is always an object, it says.
    AlwaysTaken,
    /// It looks, and then writes.
    LooksFirst,
}

/// What becomes of a request that deletes many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batches {
    Known,
    WantMd5,
    Refused(u16, &'static str),
    /// It is answered as if it were done.
    Pretended,
}

/// What a listing is like; numbers are entries of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    Whole,
    Of(usize),
    /// There is more, it says, and gives no token.
    WithoutToken(usize),
    /// That is all, it says.
    Silently(usize),
    /// That is all, and it always begins anew.
    OnlyTheFirst(usize),
    RepeatsToken(usize),
    IgnoresDelimiter,
    IgnoresPrefix,
    /// Nothing says whether there is more.
    SaysNothing,
    /// It says how many keys there are, and leaves some out.
    Miscounts(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behaviour {
    pub condition: Condition,
    pub batches: Batches,
    pub pages: Pages,
    /// A PUT without a checksum is refused, as in a bucket with object lock.
    pub wants_checksum: bool,
    /// Nothing is deleted for anybody, for a reason of the server's.
    pub refuses_deletions: bool,
    /// Where the bucket is, for whoever asks another region's server.
    pub region: Option<&'static str>,
}

impl Behaviour {
    pub const GOOD: Self = Self {
        condition: Condition::Honoured,
        batches: Batches::Known,
        pages: Pages::Of(1000),
        wants_checksum: false,
        refuses_deletions: false,
        region: None,
    };
}

/// Serves until it is dropped.
pub struct Quirky {
    pub endpoint: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    looked: Condvar,
}

struct State {
    behaviour: Behaviour,
    objects: BTreeMap<String, (Vec<u8>, i64)>,
    /// The access key that is good.
    key: String,
    /// Two of them were let through once: from now on nobody waits for another one.
    was_raced: bool,
    /// The end of a key that the next listing leaves out.
    hidden: Option<String>,
    /// Writers of each key that have looked and not written.
    looking: BTreeMap<String, usize>,
    /// Method, what stands before the bucket, and key, and `?` before the parameters where there are any.
    requests: Vec<String>,
    ended: bool,
}

impl Quirky {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                behaviour,
                objects: BTreeMap::new(),
                key: KEY.to_owned(),
                hidden: None,
                was_raced: false,
                looking: BTreeMap::new(),
                requests: Vec::new(),
                ended: false,
            }),
            looked: Condvar::new(),
        });
        let serving = shared.clone();
        Self {
            endpoint: format!("http://{address}"),
            address,
            shared,
            listening: Some(std::thread::spawn(move || serving.listen(&listener))),
        }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.lock().behaviour = behaviour;
    }

    /// The next listing leaves out the key that ends so.
    pub fn hide_once(&self, end: &str) {
        self.shared.lock().hidden = Some(end.to_owned());
    }

    /// From now on this access key alone is good.
    pub fn take_key(&self, key: &str) {
        self.shared.lock().key = key.to_owned();
    }

    pub fn keys(&self) -> Vec<String> {
        self.shared.lock().objects.keys().cloned().collect()
    }

    /// The requests since the last time that this was asked.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().requests)
    }

    /// For a daemon.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn store(&self) -> S3 {
        S3 {
            endpoint: self.endpoint.clone(),
            bucket: BUCKET.to_owned(),
            access_key: KEY.to_owned(),
            secret_key: SECRET.to_owned(),
        }
    }

    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            access_key: Some(Secret(KEY.to_owned())),
            secret_key: Some(Secret(SECRET.to_owned())),
            ..S3Options::default()
        }
    }

    pub fn spec(&self) -> StoreSpec {
        StoreSpec::parse(&format!("s3://{BUCKET}")).expect("a STORE")
    }
}

impl Drop for Quirky {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        // Wakes the listener, which then sees the end.
        drop(TcpStream::connect(self.address));
        if let Some(listening) = self.listening.take() {
            listening.join().expect("the server does not panic");
        }
    }
}

/// A status, and a body.
struct Answer(u16, String, Vec<u8>);

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self(200, String::new(), body.into())
    }

    fn error(status: u16, code: &str) -> Self {
        Self::refusal(status, code, "As told.")
    }

    fn refusal(status: u16, code: &str, message: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Self(status, String::new(), body.into())
    }
}

struct Request {
    method: String,
    /// What stands before the bucket.
    before: String,
    /// Without the bucket.
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn has(&self, header: &str) -> bool {
        self.headers.contains_key(header)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn listen(&self, listener: &TcpListener) {
        std::thread::scope(|clients| {
            while let Ok((client, _)) = listener.accept() {
                if self.lock().ended {
                    return;
                }
                // What fails here failed because the client is gone.
                clients.spawn(move || drop(self.serve(&client)));
            }
        });
    }

    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let Some(request) = read(client)? else {
            return Ok(());
        };
        let Answer(status, headers, body) = self.answer(&request);
        let now = OffsetDateTime::from_unix_timestamp(now_ms() / 1_000).expect("a date");
        let date = now
            .format(&Rfc2822)
            .expect("a date")
            .replace("+0000", "GMT");
        let head = format!(
            "HTTP/1.1 {status} As told\r\ndate: {date}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            client.write_all(&body)?;
        }
        client.shutdown(Shutdown::Both)
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.lock();
        let mark = if request.query.is_empty() { "" } else { "?" };
        let (method, before) = (&request.method, &request.before);
        let line = format!("{method} {before}/{}{mark}", request.key);
        state.requests.push(line);
        let behaviour = state.behaviour;
        if let Some(region) = behaviour.region {
            let mut redirect = Answer::error(301, "PermanentRedirect");
            redirect.1 = format!("x-amz-bucket-region: {region}\r\n");
            return redirect;
        }
        let credential = format!("Credential={}/", state.key);
        let signed = request.headers.get("authorization");
        if !signed.is_some_and(|signed| signed.contains(&credential)) {
            return Answer::error(403, "InvalidAccessKeyId");
        }
        match request.method.as_str() {
            "PUT" => self.put(state, request),
            "POST" if request.query.contains_key("delete") => delete_batch(&mut state, request),
            "DELETE" if behaviour.refuses_deletions => Answer::error(501, "NotImplemented"),
            "DELETE" => {
                state.objects.remove(&request.key);
                Answer(204, String::new(), Vec::new())
            }
            "GET" if request.key.is_empty() => {
                // With the question whether there is more after it.
                let is_last = request.query.contains_key("start-after");
                let hidden = match is_last {
                    true => state.hidden.take(),
                    false => state.hidden.clone(),
                };
                list(&state, request, hidden.as_deref())
            }
            "GET" | "HEAD" => get(&state, request),
            _ => Answer::error(501, "NotImplemented"),
        }
    }

    fn put(&self, mut state: MutexGuard<'_, State>, request: &Request) -> Answer {
        let behaviour = state.behaviour;
        let has_checksum = request.has("content-md5") || request.has("x-amz-checksum-crc32");
        if behaviour.wants_checksum && !has_checksum {
            let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
            return Answer::refusal(400, "InvalidRequest", message);
        }
        let key = &request.key;
        let (ours, googles) = (
            request.has("if-none-match"),
            request.has("x-goog-if-generation-match"),
        );
        let taken = Answer::error(412, "PreconditionFailed");
        let exists = state.objects.contains_key(key);
        match behaviour.condition {
            Condition::Refused(status, code) if ours || googles => {
                return Answer::error(status, code);
            }
            Condition::AlwaysTaken if ours || googles => return taken,
            Condition::Honoured if ours && exists => return taken,
            Condition::Google if googles && exists => return taken,
            Condition::LooksFirst if ours => {
                if exists {
                    return taken;
                }
                let state_now = &mut *state;
                let writers = state_now.looking.entry(key.clone()).or_default();
                *writers += 1;
                state_now.was_raced |= *writers > 1;
                self.looked.notify_all();
                let alone = |state: &mut State| !state.was_raced;
                let waited = self.looked.wait_timeout_while(state, OTHER_WRITER, alone);
                state = waited.expect("not poisoned").0;
            }
            _ => {}
        }
        state
            .objects
            .insert(key.clone(), (request.body.clone(), now_ms()));
        Answer(200, "etag: \"e\"\r\n".to_owned(), Vec::new())
    }
}

fn get(state: &State, request: &Request) -> Answer {
    let Some((bytes, _)) = state.objects.get(&request.key) else {
        return Answer::error(404, "NoSuchKey");
    };
    let range = request.headers.get("range");
    let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
        return Answer::ok(bytes.clone());
    };
    let (from, to) = range.split_once('-').expect("from and to");
    let from: usize = from.parse().expect("a number");
    let to = to
        .parse::<usize>()
        .map_or(bytes.len(), |to| to.saturating_add(1));
    if from >= bytes.len() {
        return Answer::error(416, "InvalidRange");
    }
    let part = &bytes[from..to.min(bytes.len())];
    let end = from + part.len() - 1;
    let range = format!("content-range: bytes {from}-{end}/{}\r\n", bytes.len());
    Answer(206, range, part.to_vec())
}

fn delete_batch(state: &mut State, request: &Request) -> Answer {
    match state.behaviour.batches {
        Batches::Refused(status, code) => return Answer::error(status, code),
        Batches::WantMd5 if !request.has("content-md5") => {
            return Answer::error(400, "MissingContentMD5");
        }
        Batches::Pretended => return Answer::ok("<DeleteResult/>"),
        Batches::Known | Batches::WantMd5 => {}
    }
    let body = String::from_utf8_lossy(&request.body).into_owned();
    for part in body.split("<Key>").skip(1) {
        let (key, _) = part.split_once("</Key>").expect("an end");
        state.objects.remove(key);
    }
    Answer::ok("<DeleteResult/>")
}

fn list(state: &State, request: &Request, hidden: Option<&str>) -> Answer {
    let pages = state.behaviour.pages;
    let parameter = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let prefix = match pages {
        Pages::IgnoresPrefix => String::new(),
        _ => parameter("prefix"),
    };
    let delimiter = match pages {
        Pages::IgnoresDelimiter => String::new(),
        _ => parameter("delimiter"),
    };
    let after = match pages {
        Pages::OnlyTheFirst(_) => String::new(),
        Pages::RepeatsToken(_) => parameter("continuation-token").replace("always", ""),
        _ => parameter("start-after").max(parameter("continuation-token")),
    };
    let mut entries = BTreeSet::new();
    let shown = |key: &&String| {
        key.starts_with(&prefix) && hidden.is_none_or(|hidden| !key.ends_with(hidden))
    };
    for key in state.objects.keys().filter(shown) {
        let rest = &key[prefix.len()..];
        match rest.split_once('/').filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => entries.insert(format!("{prefix}{folder}/")),
            None => entries.insert(key.clone()),
        };
    }
    let entries: Vec<_> = entries.into_iter().filter(|key| **key > *after).collect();
    let asked = parameter("max-keys").parse().unwrap_or(1000);
    let size = match pages {
        Pages::Of(size)
        | Pages::WithoutToken(size)
        | Pages::Silently(size)
        | Pages::OnlyTheFirst(size)
        | Pages::Miscounts(size)
        | Pages::RepeatsToken(size) => size.min(asked),
        _ => asked,
    };
    let shown = &entries[..size.min(entries.len())];
    let is_cut = shown.len() < entries.len();
    let token = match (pages, shown.last().filter(|_| is_cut)) {
        (Pages::RepeatsToken(_), Some(_)) => Some("always".to_owned()),
        (Pages::Of(_) | Pages::Whole, Some(last)) => Some(last.clone()),
        _ => None,
    };
    let says_more = match pages {
        Pages::Silently(_) | Pages::OnlyTheFirst(_) | Pages::Miscounts(_) => false,
        _ => is_cut,
    };
    let count = match pages {
        Pages::Miscounts(_) => entries.len(),
        _ => shown.len(),
    };
    let mut xml = format!(
        "<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{count}</KeyCount><MaxKeys>{asked}</MaxKeys>"
    );
    if pages != Pages::SaysNothing {
        write!(xml, "<IsTruncated>{says_more}</IsTruncated>").expect("a string");
    }
    if let Some(token) = token {
        write!(
            xml,
            "<NextContinuationToken>{token}</NextContinuationToken>"
        )
        .expect("a string");
    }
    for key in shown {
        match state.objects.get(key) {
            Some((bytes, stored)) => write!(
                xml,
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>{}</LastModified></Contents>",
                bytes.len(),
                OffsetDateTime::from_unix_timestamp(stored / 1_000)
                    .expect("a date")
                    .format(&Rfc3339)
                    .expect("a date")
            ),
            None => write!(xml, "<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"),
        }
        .expect("a string");
    }
    xml.push_str("</ListBucketResult>");
    Answer::ok(xml)
}

/// The next request; none where the client has ended the connection instead.
fn read(mut client: &TcpStream) -> io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let mut more = |bytes: &mut Vec<u8>| -> io::Result<bool> {
        let read = client.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    };
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if !more(&mut bytes)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes.split_off(end + 4);
    let mut lines = head.lines();
    let line = lines.next().expect("a request line");
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let len = headers.get("content-length");
    let len: usize = len.map_or(0, |len| len.parse().expect("a length"));
    while body.len() < len {
        if !more(&mut body)? {
            return Ok(None);
        }
    }
    let mut words = line.split(' ');
    let method = words.next().expect("a method").to_owned();
    let target = words.next().expect("a target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = decoded(path);
    // A proxy is asked for whole addresses, and for tunnels.
    let path = path.strip_prefix("http://").unwrap_or(&path);
    let below = path.split_once(&format!("/{BUCKET}"));
    let (before, key) = below.unwrap_or((path, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
    Ok(Some(Request {
        method,
        before: before.to_owned(),
        key: key.trim_start_matches('/').to_owned(),
        query: query.filter(|(name, _)| name != "x-id").collect(),
        headers,
        body,
    }))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}
