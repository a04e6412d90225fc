//! The file system over a watch path.

/// One mount as health shows it.
#[derive(Clone, Debug)]
pub struct MountStatus {
    pub watch_path: std::path::PathBuf,
    pub mountpoint: std::path::PathBuf,
    pub prefix: String,
    /// `intercept` or `passthrough`.
    pub capture: &'static str,
    /// Whether the kernel passes reads and writes of `.db` and `-shm` through.
    pub file_passthrough: bool,
    /// `mounted`, `unmounted` or `bypassed`.
    pub state: &'static str,
    pub error: Option<String>,
}
