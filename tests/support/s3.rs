//! A real S3 server in this process: s3s on an ephemeral loopback port, with signatures, over a scratch directory by default.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use s3s::S3;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const BUCKET: &str = "replicas";

/// Serves until it is dropped or stopped. It runs on threads of its own, so any test may start one.
pub struct S3Server {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
    pub bucket: String,
    root: TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl S3Server {
    /// Over a scratch directory.
    pub fn start() -> Self {
        let root = TempDir::new().expect("a scratch directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let files = FileSystem::new(root.path()).expect("a directory to serve");
        // The crate looks whether the key is taken, then writes; a real server does both at once.
        Self::serving(files, root, Some(Arc::default()))
    }

    /// Over objects that are kept elsewhere, and are written one by one as they come.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn over(objects: impl S3) -> Self {
        let root = TempDir::new().expect("a scratch directory");
        Self::serving(objects, root, None)
    }

    fn serving(objects: impl S3, root: TempDir, one_writer: Option<Arc<Mutex<()>>>) -> Self {
        let (access_key, secret_key) = ("AKIATEST".to_owned(), "a-secret-of-tests".to_owned());
        let service = {
            let mut builder = S3ServiceBuilder::new(objects);
            builder.set_auth(SimpleAuth::from_single(
                access_key.clone(),
                secret_key.clone(),
            ));
            builder.build()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        runtime.spawn(serve(listener, service, one_writer));
        Self {
            endpoint: format!("http://{address}"),
            access_key,
            secret_key,
            bucket: BUCKET.to_owned(),
            root,
            runtime: Some(runtime),
        }
    }

    /// How to reach it with the right keys.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            access_key: Some(Secret(self.access_key.clone())),
            secret_key: Some(Secret(self.secret_key.clone())),
            ..S3Options::default()
        }
    }

    /// A prefix of the bucket as a STORE.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn spec(&self, prefix: &str) -> StoreSpec {
        StoreSpec::parse(&format!("s3://{}/{prefix}", self.bucket)).expect("a STORE")
    }

    /// The file that holds the object with this whole key.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn object_path(&self, key: &str) -> PathBuf {
        self.root.path().join(&self.bucket).join(key)
    }

    /// Ends the server: whoever connects from now on is refused.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // A runtime must not be waited for on a thread of another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `one_writer`: held by each request that writes, where there is one.
async fn serve(
    listener: std::net::TcpListener,
    service: S3Service,
    one_writer: Option<Arc<Mutex<()>>>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let (service, one_writer) = (service.clone(), one_writer.clone());
                let service = service_fn(move |request: hyper::Request<_>| {
                    let (service, one_writer) = (service.clone(), one_writer.clone());
                    async move {
                        let writes = matches!(*request.method(), Method::PUT | Method::POST);
                        let _one_at_a_time = match one_writer.filter(|_| writes) {
                            Some(one_writer) => Some(one_writer.lock_owned().await),
                            None => None,
                        };
                        Service::call(&service, request).await
                    }
                });
                connections.spawn(async move {
                    // A connection that the client resets is the client's matter.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
