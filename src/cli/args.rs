//! The command line as typed: one dash or two, `mount` where no command is named.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::accounts::{self, Account};
use super::helper::{self, HelperArgs};
use super::{Failure, help, one_line};
use crate::api::Listen;
use crate::config::{self, ConfigError, LogFormat, WatchPathWritten, Written, units};
use crate::format::keys::GenerationId;
use crate::store::spec::StoreSpec;

/// Commands that are known and do not work yet.
const NOT_YET: [&str; 3] = ["export", "import", "upgrade"];

/// Replicates one SQLite database per tenant to object storage, through a FUSE mount.
///
/// Without a command it mounts. Flags may be written with one dash or two.
#[derive(Parser, Debug)]
#[command(
    name = super::NAME,
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = help::MAIN
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    mount: MountArgs,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Mount over the watch path, replicate, serve the API; until SIGINT or SIGTERM
    Mount(MountArgs),
    /// Write a database as it was, verified
    #[command(after_help = help::RESTORE)]
    Restore(RestoreArgs),
    /// Show the clients in the store, or what can be restored of one
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Restore replicas into a scratch directory and check them
    #[command(after_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Ask the running instance how its clients are
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// Delete what has outlived its retention
    Retain(RetainArgs),
    /// Erase the replica of a client that was removed, now
    Purge(PurgeArgs),
    /// Suspend the deletion of a client's replica, whatever its retention
    Hold(HoldArgs),
    /// Read a configuration, and print what it means or what is wrong with it
    CheckConfig(CheckConfigArgs),
    /// Show all of it within half a minute, in a scratch directory
    Demo,
    /// Print what makes a shell complete commands and flags
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, for man(1)
    Man,
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

#[derive(Args, Debug)]
pub(super) struct MountArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// The directory that applications use; PREFIX goes before `databases/` in the store
    #[arg(long, value_name = "[PREFIX=]DIR", value_parser = WatchPathWritten::parse_flag)]
    pub watch_path: Vec<WatchPathWritten>,
    /// Must match a database's whole file name, or its whole stem
    #[arg(long, value_name = "RE", value_parser = units::guid_pattern)]
    pub guid_pattern: Option<String>,
    /// Mount there, not over the watch path
    #[arg(long, value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Where the API listens: HOST:PORT, unix:PATH or `none` [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = ListenArg::parse)]
    pub listen: Option<ListenArg>,
    /// Where state lives [default: .litestream-multitenant in the backing directory]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "json", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Serve reads and writes of every file by the daemon, even where the kernel could pass them through
    #[arg(long)]
    pub no_passthrough: bool,
    /// Start this command once mounted, hand signals on to it, end with its exit code; takes all words that follow
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Vec<OsString>,
}

/// An address, or `none`.
#[derive(Clone, Debug)]
pub(super) struct ListenArg(pub Option<Listen>);

impl ListenArg {
    fn parse(text: &str) -> Result<Self, String> {
        units::listen(text).map(Self)
    }
}

/// Which store a command works with.
#[derive(Args, Debug)]
pub(super) struct StoreArgs {
    /// The configuration [default: /etc/litestream-multitenant.yml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// NAME, s3://NAME/PREFIX or file:///DIRECTORY
    #[arg(long, value_name = "STORE", value_parser = StoreSpec::parse)]
    pub bucket: Option<StoreSpec>,
    /// An S3-compatible server's URL
    #[arg(long, value_name = "URL", value_parser = units::endpoint)]
    pub endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
}

impl StoreArgs {
    /// The configuration file with these flags written over it.
    pub(super) fn load(&self) -> Result<Written, ConfigError> {
        let mut written = config::load(self.config.as_deref())?;
        written.store = self.bucket.clone().or(written.store);
        written.s3.endpoint = self.endpoint.clone().or(written.s3.endpoint);
        written.s3.region = self.region.clone().or(written.s3.region);
        Ok(written)
    }
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// A GUID or tenant/dbName, with PREFIX/ before it where the watch path has one
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub client: Option<String>,
    /// The file to write
    #[arg(short = 'o', long, value_name = "FILE", required_unless_present_any = ["all", "dry_run"])]
    pub output: Option<PathBuf>,
    /// The newest moment at or before this time, RFC 3339 with its offset
    #[arg(long, value_name = "T", conflicts_with = "txid", value_parser = parse_time)]
    pub timestamp: Option<i64>,
    /// Exactly after this transaction
    #[arg(long, value_name = "N")]
    pub txid: Option<u64>,
    /// Of this generation [default: the newest that has it]
    #[arg(long, value_name = "G", value_parser = parse_generation)]
    pub generation: Option<GenerationId>,
    /// Replace FILE, unless it is open anywhere
    #[arg(long)]
    pub force: bool,
    /// Print what would be fetched
    #[arg(long)]
    pub dry_run: bool,
    /// Do nothing where FILE exists
    #[arg(long)]
    pub if_missing: bool,
    /// End with 0 where the store has no replica of CLIENT yet
    #[arg(long)]
    pub if_replica_exists: bool,
    /// Whose the file is, by name or number [default: the source's owner, where root restores]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = accounts::parse)]
    pub owner: Option<Account>,
    /// The file's permissions, such as 0640 [default: the source's]
    #[arg(long, value_name = "OCTAL", value_parser = accounts::parse_mode)]
    pub mode: Option<u32>,
    /// Every client that is not removed, each at DIR/PREFIX/its path below the watch path
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "txid", "generation"])]
    pub all: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<i64, String> {
    crate::clock::parse_rfc3339(text).ok_or_else(|| {
        "no RFC 3339 time with its offset: write it as 2025-01-15T10:30:45Z".to_owned()
    })
}

fn parse_generation(text: &str) -> Result<GenerationId, String> {
    text.parse().map_err(|()| {
        "no generation: write its 16 hex digits as `list CLIENT` shows them".to_owned()
    })
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// A GUID or tenant/dbName, with PREFIX/ before it where the watch path has one
    pub client: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which ones [default: all in the store]
    pub clients: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The instance's configuration [default: /etc/litestream-multitenant.yml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where its API listens [default: as its configuration says]
    #[arg(long, value_name = "ADDR", value_parser = ListenArg::parse)]
    pub listen: Option<ListenArg>,
    /// Only this one: a GUID or tenant/dbName, PREFIX/ before it to tell those of several watch paths apart
    pub client: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RetainArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only print what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// A GUID or tenant/dbName, with PREFIX/ before it where the watch path has one
    pub client: String,
}

#[derive(Args, Debug)]
pub(super) struct HoldArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// A GUID or tenant/dbName, with PREFIX/ before it where the watch path has one
    pub client: String,
    /// End it: retention holds again
    #[arg(long)]
    pub off: bool,
}

#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The configuration
    pub file: PathBuf,
    #[command(flatten)]
    pub mount: MountArgs,
}

/// What the arguments ask for.
#[derive(Debug)]
pub(super) enum Parsed {
    Run(Box<Command>),
    /// Called by mount(8).
    Helper(HelperArgs),
    /// Help or the version.
    Print(String),
}

/// All commands and flags.
pub(super) fn command_line() -> clap::Command {
    Cli::command()
}

/// Reads the arguments, the program's name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    if Path::new(&program).file_name() == Some(OsStr::new(helper::NAME)) {
        return HelperArgs::parse(args).map(Parsed::Helper);
    }
    let args = std::iter::once(program).chain(with_two_dashes(args));
    match Cli::try_parse_from(args) {
        Ok(cli) => {
            let command = cli.command.unwrap_or(Command::Mount(cli.mount));
            Ok(Parsed::Run(Box::new(command)))
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Print(error.to_string()))
            }
            _ => Err(usage(&error)),
        },
    }
}

/// `-bucket` is `--bucket`; flags of one letter, and all that follows `--` or `-exec`, stay as they are.
fn with_two_dashes(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let known = long_flags(&Cli::command());
    let short = short_flags(&Cli::command());
    let mut flags_ended = false;
    args.map(move |arg| {
        flags_ended |= arg == "--";
        let bytes = arg.as_bytes();
        let name = bytes.split(|b| *b == b'=').next().unwrap_or_default();
        let is_known = |name: &[u8]| known.iter().any(|flag| flag.as_bytes() == name);
        // What begins with no flag of one letter is an unknown long one, and is to be refused by its whole name.
        let is_word = |name: &[u8]| match name {
            [first, _, ..] => first.is_ascii_alphabetic() && !short.contains(&char::from(*first)),
            _ => false,
        };
        let with_two = match name.strip_prefix(b"-") {
            Some(name) if !flags_ended && (is_known(name) || is_word(name)) => {
                OsString::from_vec([b"-", bytes].concat())
            }
            _ => arg,
        };
        flags_ended |= with_two == "--exec";
        with_two
    })
}

fn short_flags(command: &clap::Command) -> Vec<char> {
    let own = command.get_arguments().filter_map(clap::Arg::get_short);
    own.chain(command.get_subcommands().flat_map(short_flags))
        .chain(['h', 'V'])
        .collect()
}

fn long_flags(command: &clap::Command) -> Vec<String> {
    let own = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(long_flags))
        .chain(["help".to_owned(), "version".to_owned()])
        .collect()
}

/// clap's message without the usage and the hints that follow it.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = one_line(message.strip_prefix("error: ").unwrap_or(message));
    Failure::Usage(format!("{message}; see --help"))
}

/// The refusal of something that is known and does not work yet.
pub(super) fn not_yet(name: &str) -> Failure {
    Failure::Usage(format!("`{name}` is not supported yet by this version"))
}

/// Why a word that clap took for a command of its own can't be run. Known commands get here after a flag.
pub(super) fn unknown_command(words: &[OsString]) -> Failure {
    let word = words.first().map(OsString::as_os_str).unwrap_or_default();
    let name = word.to_string_lossy();
    if NOT_YET.contains(&&*name) {
        not_yet(&name)
    } else if Cli::command().find_subcommand(word).is_some() {
        Failure::Usage(format!("`{name}` stands before its flags; see --help"))
    } else {
        Failure::Usage(format!("there is no command `{name}`; see --help"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words = std::iter::once("litestream-multitenant").chain(line.split_whitespace());
        match parse(words.map(OsString::from)) {
            Ok(Parsed::Run(command)) => Ok(*command),
            Ok(Parsed::Print(text)) => Err(text),
            Ok(Parsed::Helper(args)) => Err(format!("{args:?}")),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn the_table_of_flags_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_dash_or_two_and_mount_by_default() {
        for line in [
            "-region eu -watch-path /data/ -guid-pattern [0-9a-f]{8}\\.db",
            "--region=eu --watch-path=/data/ --guid-pattern=[0-9a-f]{8}\\.db",
            "mount -region eu -watch-path /data/",
        ] {
            let Ok(Command::Mount(args)) = parsed(line) else {
                panic!("{line} mounts");
            };
            assert_eq!(args.store.region.as_deref(), Some("eu"), "{line}");
            assert_eq!(args.watch_path[0].path, Some("/data/".into()));
        }
    }

    #[test]
    fn a_command_to_run_takes_all_that_follows() {
        let Ok(Command::Mount(args)) = parsed("-region eu -exec app -config x -- -exec list")
        else {
            panic!("it mounts");
        };
        assert_eq!(args.store.config, None);
        assert_eq!(args.exec, ["app", "-config", "x", "--", "-exec", "list"]);
        assert!(parsed("-exec").is_err(), "it needs a command");
    }

    #[test]
    fn an_unknown_flag_is_named_whole() {
        let error = parsed("-frobnicate").expect_err("unknown");
        assert!(error.contains("'--frobnicate'"), "{error}");
        assert!(
            parsed("restore x -oy.db").is_ok(),
            "a value may stand behind its flag"
        );
    }

    #[test]
    fn a_restore_with_its_short_flag() {
        let Ok(Command::Restore(args)) = parsed("restore a/b -o x.db -txid 7 -force") else {
            panic!("a restore");
        };
        assert_eq!(args.output, Some("x.db".into()));
        assert_eq!((args.txid, args.force), (Some(7), true));
        let Ok(Command::Restore(args)) =
            parsed("restore x -dry-run --timestamp 2025-01-15T10:30:45Z")
        else {
            panic!("a dry run needs no file");
        };
        assert_eq!(args.timestamp, Some(1_736_937_045_000));
    }

    #[test]
    fn wrong_usage_is_one_line() {
        for line in [
            "restore",
            "restore x",
            "restore x -o y -txid 1 -timestamp 2025-01-15T10:30:45Z",
            "restore x -o y -timestamp yesterday",
            "restore x -o y -generation 12",
            "mount -nonsense",
            "-watch-path",
            "-listen 0.0.0.0",
            "-guid-pattern [",
            "-endpoint localhost",
            "-log-format xml",
            "frobnicate",
            "-region eu mount",
        ] {
            let error = match parsed(line) {
                Ok(Command::Other(words)) => unknown_command(&words).to_string(),
                Ok(command) => panic!("{line}: {command:?}"),
                Err(error) => error,
            };
            assert!(!error.contains('\n'), "{line}: {error}");
            assert!(error.ends_with("; see --help"), "{line}: {error}");
        }
    }

    #[test]
    fn commands_of_later_versions_are_refused_by_name() {
        for name in NOT_YET {
            let Ok(Command::Other(words)) = parsed(&format!("{name} x -y")) else {
                panic!("{name} goes its own way");
            };
            let error = unknown_command(&words).to_string();
            assert_eq!(
                error,
                format!("`{name}` is not supported yet by this version")
            );
        }
    }

    #[test]
    fn by_its_other_name_it_is_what_mount_calls() {
        let as_mount = parse(["/sbin/mount.litestream-multitenant", "a", "b"].map(OsString::from));
        assert!(matches!(as_mount, Ok(Parsed::Helper(_))));
    }

    #[test]
    fn help_and_version_are_no_errors() {
        assert!(parsed("-help").is_err_and(|text| text.contains("Usage")));
        assert!(parsed("restore --help").is_err_and(|text| text.contains("--timestamp")));
        assert!(parsed("-version").is_err_and(|text| text.contains(env!("CARGO_PKG_VERSION"))));
    }
}
