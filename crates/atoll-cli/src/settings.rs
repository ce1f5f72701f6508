//! What was meant: flags and environment, then the configuration file, then the defaults.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use atoll_model::{Compute, Isa, KvType};
use atoll_node::NodeOptions;
use etcetera::BaseStrategy;

use crate::args::{ApiAddress, ComputeArgs, GlobalArgs, NodeArgs, byte_size};
use crate::config_file::ConfigFile;
use crate::exit::Failure;
use crate::source::Library;

/// What every command needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Print JSON on stdout.
    pub(crate) json: bool,
    /// Where identity, models and blobs are kept.
    pub(crate) data_dir: PathBuf,
    /// Log filter; `None`: warnings only.
    pub(crate) log: Option<String>,
    /// The configuration file, for what single commands take from it.
    pub(crate) file: ConfigFile,
}

impl Settings {
    /// Reads the configuration file and puts everything in its order of precedence.
    ///
    /// # Errors
    /// A wrong configuration file, or no idea where a home directory is.
    pub(crate) fn resolve(typed: &GlobalArgs) -> Result<Self, Failure> {
        let file = ConfigFile::load(typed.config.as_deref())?;
        let data_dir = match typed.data_dir.clone().or_else(|| file.data_dir.clone()) {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|error| Failure::io("use", &data_dir, &error))?;
        let log = typed.log.clone().or_else(|| file.log.clone());
        Ok(Self { json: typed.json, data_dir, log, file })
    }

    /// The pulled models.
    pub(crate) fn library(&self) -> Library {
        Library::new(&self.data_dir)
    }

    /// Threads that compute.
    pub(crate) fn threads(&self, typed: &ComputeArgs) -> usize {
        let cores = || thread::available_parallelism().map_or(1, |cores| cores.get());
        typed.threads.or(self.file.threads).map_or_else(cores, usize::from)
    }

    /// The instruction set that was named, if any.
    pub(crate) fn kernels_name(&self, typed: &ComputeArgs) -> Option<String> {
        typed.kernels.clone().or_else(|| self.file.kernels.clone())
    }

    /// What computes in this process.
    ///
    /// # Errors
    /// An instruction set that does not exist or does not run here.
    pub(crate) fn compute(&self, typed: &ComputeArgs) -> Result<Arc<Compute>, Failure> {
        self.compute_with_kv(typed, KvType::default())
    }

    /// As [`Settings::compute`], for caches of this kind.
    pub(crate) fn compute_with_kv(
        &self,
        typed: &ComputeArgs,
        kv: KvType,
    ) -> Result<Arc<Compute>, Failure> {
        let isa = match self.kernels_name(typed) {
            None => Isa::detect(),
            Some(name) => Isa::parse(&name).ok_or_else(|| {
                Failure::usage(format!("the kernels {name:?} do not exist or do not run here"))
                    .because(format!("the best that runs here is {}", Isa::detect().name()))
                    .hint("generic runs everywhere")
            })?,
        };
        Ok(Arc::new(Compute::new(isa, self.threads(typed))?.with_kv(kv)))
    }

    /// How a node of this data directory is started.
    ///
    /// # Errors
    /// A malformed size in the configuration file.
    pub(crate) fn node(
        &self,
        typed: &NodeArgs,
        compute: &ComputeArgs,
    ) -> Result<NodeOptions, Failure> {
        let mut options = NodeOptions::new(&self.data_dir);
        options.name = typed.name.clone().or_else(|| self.file.name.clone());
        let either = |typed: &[String], file: &Option<Vec<String>>| match typed {
            [] => file.clone().unwrap_or_default(),
            typed => typed.to_vec(),
        };
        options.listen = either(&typed.listen, &self.file.listen);
        if options.listen.is_empty() {
            let any = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
            options.listen = any.map(str::to_owned).to_vec();
        }
        options.bootstrap = either(&typed.join, &self.file.join);
        options.mdns = !typed.no_mdns && self.file.mdns.unwrap_or(true);
        options.memory_bytes = match (typed.memory, &self.file.memory) {
            (Some(bytes), _) => Some(bytes),
            (None, Some(text)) => Some(byte_size(text).map_err(|cause| {
                Failure::usage("cannot use the configured memory").because(cause)
            })?),
            (None, None) => None,
        };
        options.threads = self.threads(compute);
        options.kernels = self.kernels_name(compute);
        Ok(options)
    }

    /// Where the HTTP interface listens.
    ///
    /// # Errors
    /// A malformed address in the configuration file.
    pub(crate) fn api(&self, typed: Option<ApiAddress>) -> Result<ApiAddress, Failure> {
        let default = format!("127.0.0.1:{}", ApiAddress::PORT);
        match typed {
            Some(api) => Ok(api),
            None => ApiAddress::from_str(self.file.api.as_deref().unwrap_or(&default))
                .map_err(|cause| Failure::usage("cannot use the configured api").because(cause)),
        }
    }
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::usage("there is no home directory to keep data in")
            .because(error)
            .hint("name one with --data-dir")
    })?;
    Ok(base.data_dir().join("atoll"))
}
