//! The thread that writes log lines, so that no other one waits for whoever reads them.

use std::io::{self, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::meter::{self, Counter};

/// Lines that wait to be written, at most; further ones are dropped.
const MOST_LINES: usize = 8_192;
/// Lines that come so soon after others are written together with what comes then: it is not waked for each of them. A kill
/// loses those that came in this time; an end does not, nor does one by a panic.
const REST: Duration = Duration::from_millis(10);
/// Bytes of lines that come together and are written as one, to whoever takes any bytes.
pub(super) const TOGETHER: usize = 64 << 10;
/// How long the end waits until those are out.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Writes lines in the order in which they come. Its drop returns when those that wait are out, or after a second
/// where whoever reads them takes no more: it has to come before the process ends.
#[must_use]
pub(super) struct LogThread {
    lines: Lines,
    worker: Option<WorkerGuard>,
}

impl LogThread {
    /// `tell` makes the line that says how many were dropped. Lines that come together are written as one up to `together`
    /// bytes, and each by itself where that is 0.
    pub fn start(
        out: impl Write + Send + 'static,
        together: usize,
        tell: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let counts = Arc::new(Counts::default());
        let log = Self::start_with((MOST_LINES, together), out, tell, &counts);
        meter::LOG_LINES_DROPPED.read_from(move || counts.dropped());
        log
    }

    fn start_with(
        (most_lines, together): (usize, usize),
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) -> Vec<u8> + Send + 'static,
        counts: &Arc<Counts>,
    ) -> Self {
        let out = Out::new(out, together, tell, counts.clone());
        let (to, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(most_lines)
            .thread_name("log")
            .finish(out);
        counts.no_room.get_or_init(|| to.error_counter());
        let counts = counts.clone();
        Self {
            lines: Lines { to, counts },
            worker: Some(worker),
        }
    }

    /// What takes further ones.
    pub fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Has one more line written, as it is.
    pub fn write(&self, line: &[u8]) {
        // Where there is no room it is dropped like any other.
        let _ = self.lines().write_all(line);
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let worker = self.worker.take();
        let (ended, end) = channel::<()>();
        // The guard's own drop has limits of its own, but where no room is left it writes to standard output, which may be
        // read as little.
        let waiting = thread::Builder::new()
            .name("log-end".to_owned())
            .spawn(move || {
                drop(worker);
                drop(ended);
            });
        if waiting.is_ok() {
            // Nothing is sent: either the sender is gone, or the time is up.
            let _ = end.recv_timeout(END_LIMIT);
        }
    }
}

/// What became of the lines.
#[derive(Default)]
struct Counts {
    sent: Counter,
    /// By the thread, whether or not anybody took them.
    written: Counter,
    no_room: OnceLock<ErrorCounter>,
    not_taken: Counter,
}

impl Counts {
    fn without_room(&self) -> u64 {
        let no_room = self.no_room.get();
        no_room.map_or(0, ErrorCounter::dropped_lines) as u64
    }

    /// Those that nobody will read.
    fn dropped(&self) -> u64 {
        self.without_room() + self.not_taken.get()
    }
}

/// Takes lines, each by one write.
#[derive(Clone)]
pub(super) struct Lines {
    to: NonBlocking,
    counts: Arc<Counts>,
}

impl Lines {
    /// Returns when all that was sent before is out, or after `limit`.
    pub fn wait(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let sent = self.counts.sent.get();
        while self.counts.written.get() + self.counts.without_room() < sent && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.sent.add(1);
        self.to.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the lines go.
struct Out<W, T> {
    out: W,
    /// What is written next, and how many lines that are.
    batch: Vec<u8>,
    lines: u64,
    together: usize,
    tell: T,
    counts: Arc<Counts>,
    /// How many of those that were dropped are told.
    told: u64,
}

impl<W: Write, T> Out<W, T> {
    fn new(out: W, together: usize, tell: T, counts: Arc<Counts>) -> Self {
        Self {
            out,
            batch: Vec::new(),
            lines: 0,
            together,
            tell,
            counts,
            told: 0,
        }
    }

    fn write_batch(&mut self) {
        if self.lines == 0 {
            return;
        }
        if self.out.write_all(&self.batch).is_err() {
            self.counts.not_taken.add(self.lines);
        }
        self.counts.written.add(self.lines);
        self.batch.clear();
        self.lines = 0;
    }
}

impl<W: Write, T> Write for Out<W, T>
where
    T: Fn(u64) -> Vec<u8>,
{
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(line);
        self.lines += 1;
        if self.batch.len() >= self.together {
            self.write_batch();
        }
        Ok(line.len())
    }

    /// Comes when nothing waits any more: what was dropped came after all that is written.
    fn flush(&mut self) -> io::Result<()> {
        // What is dropped while this batch waits to be taken comes behind further ones.
        let dropped = self.counts.dropped();
        self.write_batch();
        if dropped > self.told
            && self
                .out
                .write_all(&(self.tell)(dropped - self.told))
                .is_ok()
        {
            self.told = dropped;
        }
        let flushed = self.out.flush();
        thread::sleep(REST);
        flushed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes a line whenever the test asks for one.
    struct Slow(SyncSender<String>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(line).into_owned();
            match self.0.send(text) {
                Ok(()) => Ok(line.len()),
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Counts how often nothing waits any more.
    #[derive(Clone, Default)]
    struct Counting(Arc<Counter>);

    impl Write for Counting {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.add(1);
            Ok(())
        }
    }

    #[test]
    fn the_thread_is_not_waked_for_each_of_many_lines() {
        let counting = Counting::default();
        let begun = Instant::now();
        let log = LogThread::start_with((100, 0), counting.clone(), tell, &Arc::default());
        for _ in 0..50 {
            log.write(b"a line");
            thread::sleep(Duration::from_millis(1));
        }
        drop(log);
        let most = begun.elapsed().as_millis() / REST.as_millis() + 2;
        let flushed = counting.0.get();
        assert!(
            u128::from(flushed) <= most,
            "{flushed} times, more than {most}"
        );
    }

    /// Each write as it came; none is taken where it is full.
    #[derive(Default)]
    struct Writes {
        all: Vec<String>,
        is_full: bool,
    }

    impl Write for Writes {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.is_full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.all.push(String::from_utf8_lossy(text).into_owned());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_come_together_are_written_as_one_and_each_is_counted() {
        let written = |together| {
            let mut out = Out::new(Writes::default(), together, tell, Arc::default());
            for line in ["one\n", "two\n", "three\n", "four\n"] {
                out.write_all(line.as_bytes()).expect("taken");
            }
            out.flush().expect("written");
            assert_eq!(out.counts.written.get(), 4);
            out.out.is_full = true;
            out.write_all(b"five\n").expect("taken");
            out.write_all(b"six\n").expect("taken");
            assert!(out.flush().is_ok());
            assert_eq!((out.counts.written.get(), out.counts.dropped()), (6, 2));
            out.out.all
        };
        assert_eq!(written(0), ["one\n", "two\n", "three\n", "four\n"]);
        assert_eq!(written(14), ["one\ntwo\nthree\n", "four\n"]);
        assert_eq!(written(TOGETHER), ["one\ntwo\nthree\nfour\n"]);
    }

    /// Each write as it came. During the first one there is no room for further lines.
    struct Blocking(Vec<String>, Arc<Counts>);

    impl Write for Blocking {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                self.1.not_taken.add(5);
            }
            self.0.push(String::from_utf8_lossy(text).into_owned());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_dropped_while_a_batch_waits_is_told_behind_the_next_one() {
        let counts = Arc::new(Counts::default());
        let blocking = Blocking(Vec::new(), counts.clone());
        let mut out = Out::new(blocking, TOGETHER, tell, counts);
        for line in ["first", "what waited"] {
            out.write_all(line.as_bytes()).expect("taken");
            out.flush().expect("written");
        }
        assert_eq!(out.out.0, ["first", "what waited", "5 dropped"]);
    }

    fn tell(dropped: u64) -> Vec<u8> {
        format!("{dropped} dropped").into_bytes()
    }

    fn started(most_lines: usize) -> (LogThread, Receiver<String>, Arc<Counts>) {
        let (sender, receiver) = sync_channel(0);
        let counts = Arc::new(Counts::default());
        let log = LogThread::start_with((most_lines, 0), Slow(sender), tell, &counts);
        (log, receiver, counts)
    }

    fn next(lines: &Receiver<String>) -> String {
        lines.recv_timeout(Duration::from_secs(10)).expect("a line")
    }

    #[test]
    fn what_finds_no_room_is_dropped_counted_and_told_behind_what_waited() {
        let (log, lines, counts) = started(4);
        for n in 0..20 {
            log.write(n.to_string().as_bytes());
        }
        // The thread may have taken one out at any time, which makes room for one more.
        let lost = counts.dropped();
        assert!(lost == 15 || lost == 16, "{lost}");
        let written: Vec<u64> = (lost..20)
            .map(|_| next(&lines).parse().expect("a number"))
            .collect();
        assert_eq!(written[..4], [0, 1, 2, 3]);
        assert!(written.is_sorted_by(|a, b| a < b), "{written:?}");
        assert_eq!(next(&lines), format!("{lost} dropped"));
        log.write(b"then");
        assert_eq!(next(&lines), "then");
        assert_eq!(counts.dropped(), lost);
    }

    #[test]
    fn the_end_waits_for_what_is_taken() {
        let (log, lines, counts) = started(100);
        for n in 0..100 {
            log.write(n.to_string().as_bytes());
        }
        let reader = thread::spawn(move || lines.iter().count());
        drop(log);
        assert_eq!(reader.join().expect("it reads"), 100);
        assert_eq!(counts.dropped(), 0);
    }

    #[test]
    fn the_end_does_not_wait_long_for_what_is_not_taken() {
        for written in [2, 50] {
            let (log, lines, _) = started(4);
            for n in 0..written {
                log.write(n.to_string().as_bytes());
            }
            let begun = Instant::now();
            drop(log);
            let took = begun.elapsed();
            assert!(took < END_LIMIT * 3, "{took:?}");
            drop(lines);
        }
    }

    #[test]
    fn who_waits_does_so_until_all_is_out_and_not_for_ever() {
        let (log, lines, _) = started(4);
        log.write(b"first");
        log.write(b"last");
        let begun = Instant::now();
        log.lines().wait(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let reader = thread::spawn(move || [next(&lines), next(&lines)]);
        log.lines().wait(Duration::from_secs(10));
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(reader.join().expect("it reads"), ["first", "last"]);
    }

    #[test]
    fn what_nobody_takes_any_more_is_counted() {
        let (log, lines, counts) = started(100);
        drop(lines);
        for n in 0..10 {
            log.write(n.to_string().as_bytes());
        }
        drop(log);
        assert_eq!(counts.dropped(), 10);
    }
}
