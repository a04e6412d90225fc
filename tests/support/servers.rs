//! The S3 servers that the tests run against: s3s-fs in this process, moto, and Garage where its program is named.

use std::sync::{Arc, LazyLock};

use litestream_multitenant::store::ObjectStore;
use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use serde_json::json;

use super::daemon::S3;
use super::garage::Garage;
use super::moto::Moto;
use super::s3::S3Server;

/// One for all tests of the process: it takes a second to start, and ends with the process.
static MOTO: LazyLock<(Moto, S3)> = LazyLock::new(|| {
    let moto = Moto::start();
    let everything = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]});
    let keys = moto.user("tests", &everything);
    let store = moto.as_store(&keys);
    (moto, store)
});
static GARAGE: LazyLock<Option<Garage>> = LazyLock::new(Garage::start_if_named);

/// A bucket, whoever serves it.
pub struct Server {
    pub name: &'static str,
    pub store: S3,
    /// Whether it refuses a PUT of a key that is taken; Garage accepts the condition, and ignores it.
    pub is_create_only: bool,
    /// What serves it alone, for as long as this lives.
    own: Option<S3Server>,
}

impl Server {
    pub fn all() -> Vec<Self> {
        let s3s = S3Server::start();
        let mut all = vec![
            Self {
                name: "s3s-fs",
                store: S3 {
                    endpoint: s3s.endpoint.clone(),
                    bucket: s3s.bucket.clone(),
                    access_key: s3s.access_key.clone(),
                    secret_key: s3s.secret_key.clone(),
                },
                is_create_only: true,
                own: Some(s3s),
            },
            Self {
                name: "moto",
                store: MOTO.1.clone(),
                is_create_only: true,
                own: None,
            },
        ];
        all.extend(GARAGE.as_ref().map(|garage| Self {
            name: "garage",
            store: garage.store.clone(),
            is_create_only: false,
            own: None,
        }));
        all
    }

    /// The file that holds the object with this whole key, where there is one.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn object_path(&self, key: &str) -> Option<std::path::PathBuf> {
        self.own.as_ref().map(|server| server.object_path(key))
    }
}

/// What lies below a prefix of a bucket.
#[allow(dead_code, reason = "not every test file needs it")]
pub async fn open(s3: &S3, prefix: &str) -> Arc<dyn ObjectStore> {
    let options = S3Options {
        endpoint: Some(s3.endpoint.clone()),
        access_key: Some(Secret(s3.access_key.clone())),
        secret_key: Some(Secret(s3.secret_key.clone())),
        ..S3Options::default()
    };
    let spec = StoreSpec::parse(&format!("s3://{}/{prefix}", s3.bucket)).expect("a STORE");
    spec.open(&options).await.expect("not contacted yet")
}
