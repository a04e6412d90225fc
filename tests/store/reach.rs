//! How a server is reached: endpoints as users write them, proxies, certificates, and a bucket that is in another region.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::support::process::{binary, succeeded};
use super::support::quirky::{Behaviour, Quirky};

/// `list`, with these variables in its environment, and nothing of ours that says how to reach a server.
fn list(endpoint: Option<&str>, environment: &[(&str, &str)]) -> Output {
    let mut command = binary();
    command.args(["list", "-bucket", "replicas"]);
    if let Some(endpoint) = endpoint {
        command.args(["-endpoint", endpoint]);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "AWS_CA_BUNDLE"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .env("AWS_ACCESS_KEY_ID", "AKIATEST")
        .env("AWS_SECRET_ACCESS_KEY", "a-secret-of-tests")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment.iter().copied())
        .output()
        .expect("it starts")
}

fn assert_lists(endpoint: Option<&str>, environment: &[(&str, &str)]) {
    let listed = list(endpoint, environment);
    let told = String::from_utf8_lossy(&listed.stderr);
    assert_eq!(listed.status.code(), Some(0), "{environment:?}: {told}");
}

fn error_of(endpoint: Option<&str>, environment: &[(&str, &str)]) -> String {
    let listed = list(endpoint, environment);
    assert_eq!(listed.status.code(), Some(1));
    let told = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

#[test]
fn an_endpoint_may_have_a_path_with_or_without_a_slash_and_come_from_the_environment() {
    let server = Quirky::start(Behaviour::GOOD);
    for (path, before) in [
        ("", ""),
        ("/", ""),
        ("/s3/v1", "/s3/v1"),
        ("/s3/v1/", "/s3/v1"),
    ] {
        let endpoint = format!("{}{path}", server.endpoint);
        assert_lists(Some(&endpoint), &[]);
        for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
            assert_lists(None, &[(name, &endpoint)]);
        }
        let wanted = format!("GET {before}/?");
        let requests = server.requests();
        assert!(requests.iter().all(|one| *one == wanted), "{requests:?}");
        assert!(requests.len() >= 3, "{requests:?}");
    }
}

#[test]
fn proxies_are_asked_as_the_environment_says() {
    let server = Quirky::start(Behaviour::GOOD);
    let proxy = server.endpoint.as_str();
    let nowhere = "http://store.invalid:9000";
    assert_lists(Some(nowhere), &[("HTTP_PROXY", proxy)]);
    let requests = server.requests();
    let asked = |one: &String| one.starts_with("GET store.invalid:9000/");
    assert!(
        !requests.is_empty() && requests.iter().all(asked),
        "{requests:?}"
    );

    let dead = "http://127.0.0.1:1";
    let through = [("HTTP_PROXY", dead), ("NO_PROXY", "127.0.0.1")];
    assert_lists(Some(proxy), &through);
    assert!(error_of(Some(proxy), &through[..1]).contains("does not answer"));
    server.requests();

    // It gives no tunnels, and was asked for one.
    error_of(Some("https://store.invalid"), &[("HTTPS_PROXY", proxy)]);
    let requests = server.requests();
    let asked = |one: &String| one.starts_with("CONNECT store.invalid:443");
    assert!(requests.iter().any(asked), "{requests:?}");
}

#[test]
fn a_bucket_in_another_region_names_it() {
    let server = Quirky::start(Behaviour {
        region: Some("eu-west-7"),
        ..Behaviour::GOOD
    });
    let told = error_of(Some(&server.endpoint), &[]);
    assert!(told.contains("give -region eu-west-7"), "{told}");
}

/// Ends TLS before a server.
struct Tls {
    child: Child,
    endpoint: String,
}

impl Tls {
    fn before(server: &Quirky, certificates: &Path) -> Self {
        let (_, port) = server.endpoint.rsplit_once(':').expect("a port");
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/tls.py"))
            .args([
                certificates.join("server.pem"),
                certificates.join("server.key"),
            ])
            .arg(port)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a port");
        let endpoint = format!("https://127.0.0.1:{}", line.trim());
        Self { child, endpoint }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(directory: &Path, words: &str) {
    let mut command = Command::new("openssl");
    succeeded(command.args(words.split(' ')).current_dir(directory));
}

#[test]
fn a_certificate_that_is_not_trusted_is_called_that_and_a_bundle_makes_it_so() {
    let directory = TempDir::new().expect("a directory");
    let place = directory.path();
    openssl(
        place,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
    );
    openssl(
        place,
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server",
    );
    std::fs::write(place.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(
        place,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
    let server = Quirky::start(Behaviour::GOOD);
    let tls = Tls::before(&server, place);
    let told = error_of(Some(&tls.endpoint), &[]);
    assert!(told.contains("certificate is not trusted"), "{told}");
    assert!(told.contains("AWS_CA_BUNDLE"), "{told}");
    let bundle = place.join("ca.pem").display().to_string();
    assert_lists(Some(&tls.endpoint), &[("AWS_CA_BUNDLE", &bundle)]);
    for (wrong, said) in [
        ("server.key", "has no certificates"),
        ("absent", "No such file"),
    ] {
        let wrong = place.join(wrong).display().to_string();
        let told = error_of(Some(&tls.endpoint), &[("AWS_CA_BUNDLE", &wrong)]);
        assert!(told.contains(said) && told.contains(&wrong), "{told}");
    }
}
