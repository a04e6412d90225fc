//! The threads that serve a mount: which operation each is at, and whether it is this process that asked.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use crate::meter::{self, FileOperation, Timed};

thread_local! {
    /// This thread, where it serves a mount. It serves one for as long as it lives.
    static SERVED_BY: OnceCell<Arc<ServingThread>> = const { OnceCell::new() };
}

/// The threads of one mount.
#[derive(Debug)]
pub(super) struct Serving {
    process: u32,
    threads: Mutex<Vec<Arc<ServingThread>>>,
    /// Whoever looks at them; asleep while nobody asks for anything.
    watch: OnceLock<Thread>,
    is_watch_asleep: AtomicBool,
    has_ended: AtomicBool,
}

/// A thread that has served a request.
#[derive(Debug)]
pub(super) struct ServingThread {
    /// As `/proc/self/task` has it.
    pub id: u32,
    /// The operation that it is at, or was last.
    operation: AtomicU8,
}

impl ServingThread {
    pub fn operation(&self) -> &'static str {
        let number = usize::from(self.operation.load(Ordering::Relaxed));
        FileOperation::ALL
            .get(number)
            .map_or("", |operation| operation.name())
    }
}

impl Serving {
    pub fn new() -> Self {
        Self {
            process: std::process::id(),
            threads: Mutex::default(),
            watch: OnceLock::new(),
            is_watch_asleep: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        }
    }

    /// This thread begins an operation that the thread numbered `asked_by` asked for; 0 is the kernel, or nobody that is
    /// seen from here.
    pub fn begin(&self, operation: FileOperation, asked_by: u32) -> Timed {
        SERVED_BY.with(|known| {
            let thread = known.get_or_init(|| self.add_this_thread());
            thread.operation.store(operation as u8, Ordering::Relaxed);
        });
        if self.is_watch_asleep.load(Ordering::Relaxed) {
            self.wake_watch();
        }
        if asked_by != 0 && self.has_thread(asked_by) {
            tell_own_request(operation, asked_by);
        }
        operation.begin()
    }

    fn add_this_thread(&self) -> Arc<ServingThread> {
        let thread = Arc::new(ServingThread {
            id: rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
            operation: AtomicU8::new(u8::MAX),
        });
        self.lock().push(thread.clone());
        thread
    }

    /// Whether it is one of this process: a signal that is none would reach it.
    fn has_thread(&self, number: u32) -> bool {
        // SAFETY: three numbers; with 0 for a signal nothing is sent.
        let outcome = unsafe { libc::syscall(libc::SYS_tgkill, self.process, number, 0) };
        outcome == 0
    }

    pub fn threads(&self) -> Vec<Arc<ServingThread>> {
        self.lock().clone()
    }

    /// The calling thread sleeps until a request comes in, or the mount ends.
    pub fn sleep_until_request(&self) {
        self.watch.get_or_init(std::thread::current);
        self.is_watch_asleep.store(true, Ordering::SeqCst);
        while self.is_watch_asleep.load(Ordering::SeqCst) && !self.has_ended() {
            std::thread::park();
        }
    }

    /// Nothing is served any more.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.wake_watch();
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    fn wake_watch(&self) {
        self.is_watch_asleep.store(false, Ordering::SeqCst);
        if let Some(watch) = self.watch.get() {
            watch.unpark();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<ServingThread>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where all threads do so at once, nobody is left to answer.
fn tell_own_request(operation: FileOperation, thread: u32) {
    if meter::OWN_REQUESTS.count() == 0 {
        tracing::error!(
            operation = operation.name(),
            thread,
            "A defect: this instance asked its own mount; please report it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_this_process_are_told_from_others() {
        let serving = Serving::new();
        let own = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        assert!(serving.has_thread(own));
        assert!(!serving.has_thread(1));
    }

    #[test]
    fn whoever_watches_is_waked_by_a_request_and_by_the_end() {
        let serving = Arc::new(Serving::new());
        let watched = serving.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let watch = std::thread::spawn(move || {
            while !watched.has_ended() {
                watched.sleep_until_request();
                tell.send(()).expect("heard");
            }
        });
        while !serving.is_watch_asleep.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        drop(serving.begin(FileOperation::Lookup, 0));
        told.recv().expect("waked by a request");
        assert_eq!(serving.threads()[0].operation(), "lookup");
        serving.end();
        watch.join().expect("waked by the end");
    }
}
