//! The files of `mount/` and the example for Kubernetes: what reads them understands them, and none of them would hide
//! the mount from applications.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALLED: &str = "/usr/local/bin/litestream-multitenant";
const UNITS: [&str; 2] = [
    "litestream-multitenant.service",
    "litestream-multitenant@.service",
];
const DROP_IN: &str = "app.service.d/litestream-multitenant.conf";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mount")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The settings of a unit, without its comments.
fn settings(name: &str) -> Vec<String> {
    let text = text(name);
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let place = |name: &str| scratch.path().join(name);
    for name in UNITS {
        let unit = text(name);
        assert!(unit.contains(&format!("ExecStart={INSTALLED} mount ")));
        // Where the binary is in this build: systemd looks whether it can be started.
        let unit = unit.replace(INSTALLED, env!("CARGO_BIN_EXE_litestream-multitenant"));
        fs::write(place(name), unit).expect("written");
    }
    fs::create_dir(place("app.service.d")).expect("a folder");
    fs::write(place(DROP_IN), text(DROP_IN)).expect("written");
    fs::write(place("app.service"), "[Service]\nExecStart=/bin/true\n").expect("written");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "app.service"])
        .args([UNITS[0], "litestream-multitenant@eu.service"])
        .env(
            "SYSTEMD_UNIT_PATH",
            format!("{}:", scratch.path().display()),
        )
        .current_dir(scratch.path())
        .output()
        .expect("systemd-analyze is installed: `tests/run` sees to it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("litestream"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn no_setting_makes_a_mount_namespace() {
    // systemd.exec(5): each of these runs the service in a mount namespace of its own.
    const MAKE_ONE: [&str; 26] = [
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateNetwork",
        "PrivateUsers",
        "ProtectSystem",
        "ProtectHome",
        "ProtectProc",
        "ProcSubset",
        "ProtectHostname",
        "ProtectClock",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "BindPaths",
        "BindReadOnlyPaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "DynamicUser",
    ];
    for name in UNITS {
        for line in settings(name) {
            let key = line.split('=').next().unwrap_or_default();
            assert!(!MAKE_ONE.contains(&key), "{name}: {line}");
            assert_ne!(
                key, "RestrictSUIDSGID",
                "{name}: applications may set such bits"
            );
        }
    }
}

#[test]
fn the_template_is_the_unit_with_a_configuration_of_its_own() {
    let template: Vec<_> = settings(UNITS[1])
        .into_iter()
        .map(|line| line.replace("/%i.yml", ".yml").replace(", %i)", ")"))
        .collect();
    assert_eq!(template, settings(UNITS[0]));
}

#[test]
fn the_instance_outlives_the_application() {
    let app = settings(DROP_IN);
    for needed in ["After", "BindsTo", "WantedBy"] {
        assert!(app.contains(&format!("{needed}={}", UNITS[0])), "{app:?}");
    }
}

#[test]
fn the_lines_for_fstab_are_understood() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path().canonicalize().expect("it exists");
    let root = root.to_str().expect("text");
    let helper = scratch.path().join("mount.litestream-multitenant");
    let binary = env!("CARGO_BIN_EXE_litestream-multitenant");
    std::os::unix::fs::symlink(binary, &helper).expect("a link");
    let mut lines = 0;
    for line in settings("fstab.example") {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [source, target, kind, options, "0", "0"] = fields[..] else {
            panic!("{line}");
        };
        assert_eq!(kind, "litestream-multitenant");
        let config = options
            .split(',')
            .find_map(|option| option.strip_prefix("config="));
        let config = format!("{root}{}", config.expect("it names a configuration"));
        fs::create_dir_all(Path::new(&config).parent().expect("a folder")).expect("made");
        fs::write(&config, format!("bucket: file://{root}/store\n")).expect("written");
        let [source, target] = [source, target].map(|dir| format!("{root}{dir}"));
        for dir in [&source, &target] {
            fs::create_dir_all(dir).expect("made");
        }
        let options = options.replace("config=", &format!("config={root}"));
        let output = Command::new(&helper)
            .args([&source, &target])
            .args(["-f", "-o", &options])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        lines += 1;
    }
    assert_eq!(lines, 2);
}

#[test]
fn the_example_for_kubernetes_lets_the_mount_be_seen() {
    use serde_yaml::Value;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes.yaml");
    let text = fs::read_to_string(path).expect("the example");
    let parts: Vec<&str> = text.split("\n---\n").collect();
    let [config, app] =
        [parts[0], parts[1]].map(|part| serde_yaml::from_str::<Value>(part).expect("YAML"));

    // The configuration, with directories of this machine.
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path().canonicalize().expect("it exists");
    let config = config["data"]["litestream-multitenant.yml"]
        .as_str()
        .expect("text");
    for dir in ["backing", "mounts/data"] {
        fs::create_dir_all(root.join(dir)).expect("made");
    }
    let config = ["/backing", "/mounts"]
        .iter()
        .fold(config.to_owned(), |text, dir| {
            text.replace(dir, &format!("{}{dir}", root.display()))
        });
    let file = root.join("config.yml");
    fs::write(&file, config).expect("written");
    let checked = Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"))
        .arg("check-config")
        .arg(&file)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}");

    let pod = &app["spec"]["template"]["spec"];
    let (sidecar, app) = (&pod["initContainers"][0], &pod["containers"][0]);
    let propagation = |container: &Value| {
        let mounts = container["volumeMounts"]
            .as_sequence()
            .cloned()
            .unwrap_or_default();
        let shared = mounts.into_iter().find(|mount| mount["name"] == "mounts");
        shared.map(|mount| mount["mountPropagation"].clone())
    };
    assert_eq!(sidecar["securityContext"]["privileged"], true);
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(propagation(sidecar), Some("Bidirectional".into()));
    assert_eq!(propagation(app), Some("HostToContainer".into()));
    assert_eq!(pod["shareProcessNamespace"], true);
    let of_app = app["volumeMounts"].as_sequence().expect("a list");
    assert!(
        of_app.iter().all(|mount| mount["name"] != "databases"),
        "never past the mount"
    );
}
