//! The binary as `mount.litestream-multitenant`: what mount(8) and /etc/fstab call, with their own kind of arguments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::mount::MountFlags;

use super::{Failure, background, print};
use crate::api::Listen;
use crate::config::{self, Config, ConfigError, WatchPathWritten, units};
use crate::daemon::Beside;
use crate::mount::await_release;

/// The name under which mount(8) looks for it.
pub(super) const NAME: &str = "mount.litestream-multitenant";

/// How long a start waits for an instance that was unmounted and still stores what is committed.
const RELEASE_LIMIT: Duration = Duration::from_secs(45);

const USAGE: &str =
    "mount.litestream-multitenant SOURCE TARGET [-fnsv] [-o config=FILE,listen=ADDR,…]";

/// Accepted, since mount(8) or systemd has carried them out, or since they say what is the case anyway.
const WITHOUT_EFFECT: [&str; 27] = [
    "defaults",
    "rw",
    "suid",
    "dev",
    "exec",
    "async",
    "atime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "silent",
];

/// What mount(8) asks for.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct HelperArgs {
    source: PathBuf,
    target: PathBuf,
    /// Do all but mount.
    fake: bool,
    verbose: bool,
    options: Options,
}

#[derive(PartialEq, Eq, Debug)]
struct Options {
    config: Option<PathBuf>,
    listen: Option<Option<Listen>>,
    restrictions: MountFlags,
}

/// Mounts, and returns once the mount answers; the daemon stays in the background.
pub(super) fn run(args: HelperArgs) -> Result<ExitCode, Failure> {
    let args = args.absolute()?;
    let config = args.configured()?;
    if args.fake {
        return Ok(ExitCode::SUCCESS);
    }
    let watch_path = config.watch_paths[0].path.clone();
    await_release(&watch_path, RELEASE_LIMIT);
    let beside = Beside {
        restrictions: args.options.restrictions,
        ..Beside::default()
    };
    let (verbose, target) = (args.verbose, args.target.clone());
    let reload = Box::new(move || args.configured());
    let pid = background::start(config, reload, beside)?;
    if verbose {
        let (source, target) = (watch_path.display(), target.display());
        print(&format!(
            "{source} is served at {target} by process {pid}\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl HelperArgs {
    /// With paths that mean the same wherever the instance stands later.
    fn absolute(self) -> Result<Self, Failure> {
        let absolute = |path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|error| Failure::Other(format!("{}: {error}", path.display())))
        };
        Ok(Self {
            source: absolute(self.source)?,
            target: absolute(self.target)?,
            options: Options {
                config: self.options.config.map(absolute).transpose()?,
                ..self.options
            },
            ..self
        })
    }

    /// The file, with source and target in the place of its watch paths.
    fn configured(&self) -> Result<Config, ConfigError> {
        let mut written = config::load(self.options.config.as_deref())?;
        let is_source = |one: &WatchPathWritten| one.path.as_ref() == Some(&self.source);
        let own = match &written.watch_paths[..] {
            [only] => Some(only),
            several => several.iter().find(|one| is_source(one)),
        };
        written.watch_paths = vec![WatchPathWritten {
            path: Some(self.source.clone()),
            mountpoint: Some(self.target.clone()),
            prefix: own.map_or_else(String::new, |own| own.prefix.clone()),
        }];
        written.listen = self.options.listen.clone();
        written.resolve()
    }

    /// Reads the arguments, without the program's name.
    pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut paths = Vec::new();
        let mut options = Vec::new();
        let (mut fake, mut verbose, mut sloppy) = (false, false, false);
        let mut args = args;
        while let Some(arg) = args.next() {
            let flags = match arg.as_bytes() {
                [b'-', flags @ ..] if !flags.is_empty() => flags.to_vec(),
                _ => {
                    paths.push(PathBuf::from(arg));
                    continue;
                }
            };
            // One-letter flags can stand together; the last may have its value in the next word.
            let mut rest = flags.as_slice();
            while let [flag, after @ ..] = rest {
                rest = after;
                match flag {
                    b'f' => fake = true,
                    b'v' => verbose = true,
                    b's' => sloppy = true,
                    // There is no table of mounts but the kernel's.
                    b'n' => {}
                    b'o' | b't' => {
                        let value = match rest {
                            [] => args.next().ok_or_else(|| usage(&arg))?.into_vec(),
                            value => value.to_vec(),
                        };
                        if *flag == b'o' {
                            options.push(value);
                        }
                        rest = &[];
                    }
                    _ => return Err(usage(&arg)),
                }
            }
        }
        let [source, target] = <[PathBuf; 2]>::try_from(paths)
            .map_err(|_| Failure::Usage(format!("SOURCE and TARGET are needed: {USAGE}")))?;
        Ok(Self {
            source,
            target,
            fake,
            verbose,
            options: Options::parse(&options.join(&b','), sloppy)?,
        })
    }
}

impl Options {
    fn parse(text: &[u8], sloppy: bool) -> Result<Self, Failure> {
        let mut options = Self {
            config: None,
            listen: None,
            restrictions: MountFlags::empty(),
        };
        for option in text.split(|byte| *byte == b',').filter(|o| !o.is_empty()) {
            let option = OsStr::from_bytes(option);
            if !options.take(option)? && !sloppy {
                return Err(Failure::Usage(format!(
                    "-o {}: there is no such option; those of its own are config=FILE and listen=ADDR",
                    option.display()
                )));
            }
        }
        Ok(options)
    }

    /// False where it is not known.
    fn take(&mut self, option: &OsStr) -> Result<bool, Failure> {
        let bytes = option.as_bytes();
        if let Some(file) = bytes.strip_prefix(b"config=") {
            self.config = Some(Path::new(OsStr::from_bytes(file)).to_owned());
            return Ok(true);
        }
        let Some(text) = option.to_str() else {
            return Ok(false);
        };
        if let Some(address) = text.strip_prefix("listen=") {
            let listen = units::listen(address)
                .map_err(|reason| Failure::Usage(format!("-o {text}: {reason}")))?;
            self.listen = Some(listen);
            return Ok(true);
        }
        let restriction = restriction_of(text);
        self.restrictions |= restriction;
        let has_value = |name: &str| text.starts_with(name) && text[name.len()..].starts_with('=');
        Ok(!restriction.is_empty()
            || WITHOUT_EFFECT.contains(&text)
            || has_value("user")
            || has_value("comment")
            || text.starts_with("x-")
            || text.starts_with("X-"))
    }
}

/// What an option forbids beyond what the backing mount does.
fn restriction_of(option: &str) -> MountFlags {
    match option {
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        _ => MountFlags::empty(),
    }
}

fn usage(arg: &OsStr) -> Failure {
    Failure::Usage(format!("{}: no such flag: {USAGE}", arg.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<HelperArgs, String> {
        let words = line.split_whitespace().map(OsString::from);
        HelperArgs::parse(words).map_err(|failure| failure.to_string())
    }

    #[test]
    fn as_mount_calls_it() {
        let args = parsed("/srv /data -n -o rw,nosuid,config=/etc/x.yml,listen=none,nofail,_netdev,x-a.b=c,user=me")
            .expect("known options");
        assert_eq!((args.source, args.target), ("/srv".into(), "/data".into()));
        assert_eq!(args.options.config, Some("/etc/x.yml".into()));
        assert_eq!(args.options.listen, Some(None));
        assert_eq!(args.options.restrictions, MountFlags::NOSUID);
        let args = parsed("-sfv -o ro -o noexec /srv /data -t fuse.x").expect("flags together");
        assert!(args.fake && args.verbose);
        let both = MountFlags::RDONLY | MountFlags::NOEXEC;
        assert_eq!(args.options.restrictions, both);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (line, part) in [
            ("/srv /data -o frobnicate", "frobnicate"),
            ("/srv /data -o rw,bucket=x", "bucket=x"),
            ("/srv /data -o remount", "remount"),
            ("/srv /data -o users=x", "users=x"),
            ("/srv /data -o listen=here", "listen=here"),
            ("/srv /data -x", "-x"),
            ("/srv /data -N 1", "-N"),
            ("/srv /data -o", "-o"),
            ("/srv", "SOURCE and TARGET"),
            ("/srv /data /more", "SOURCE and TARGET"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        parsed("/srv /data -s -o frobnicate").expect("sloppy");
    }
}
