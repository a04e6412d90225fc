//! How a configuration has the server encrypt: two keys that have to fit each other, and the store.

use super::{ConfigError, Written};
use crate::store::spec::{Encryption, StoreSpec};

/// What is asked of the server for each object.
pub(super) fn encryption(written: &Written) -> Result<Option<Encryption>, ConfigError> {
    let has_key = written.kms_key_id.is_some();
    let Some(algorithm) = written.sse else {
        return match has_key {
            true => Err(without_kms()),
            false => Ok(None),
        };
    };
    if has_key && !algorithm.has_kms_key() {
        return Err(without_kms());
    }
    let own = written.tenants.iter();
    let own = own.filter_map(|tenant| tenant.bucket.as_ref());
    let mut stores = written.store.iter().chain(own).peekable();
    let is_directory = |store| matches!(store, &StoreSpec::Directory(_));
    if stores.peek().is_some() && stores.all(is_directory) {
        return Err(wrong(
            "s3.sse",
            "a store in a directory does not encrypt; leave the key out",
        ));
    }
    Ok(Some(Encryption {
        algorithm,
        kms_key_id: written.kms_key_id.clone(),
    }))
}

fn without_kms() -> ConfigError {
    wrong(
        "s3.kmsKeyId",
        "it needs `s3.sse`, as `aws:kms` or `aws:kms:dsse`",
    )
}

fn wrong(key: &str, reason: &str) -> ConfigError {
    ConfigError::Key {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::spec::EncryptionAlgorithm;

    fn written(sse: Option<&str>, key: Option<&str>, store: &str) -> Written {
        let sse = sse.map(|text| EncryptionAlgorithm::parse(text).expect(text));
        Written {
            sse,
            kms_key_id: key.map(str::to_owned),
            store: Some(StoreSpec::parse(store).expect(store)),
            ..Written::default()
        }
    }

    #[test]
    fn an_algorithm_with_a_key_that_fits_it() {
        let asked = |sse, key| encryption(&written(sse, key, "bucket")).expect("fits");
        assert_eq!(asked(None, None), None);
        for (sse, key) in [
            ("AES256", None),
            ("aws:kms", None),
            ("aws:kms", Some("alias/replicas")),
            ("aws:kms:dsse", Some("a-key")),
        ] {
            let encryption = asked(Some(sse), key).expect("asked for");
            assert_eq!(encryption.algorithm.as_str(), sse);
            assert_eq!(encryption.kms_key_id.as_deref(), key);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (sse, key, store, name) in [
            (None, Some("a-key"), "bucket", "`s3.kmsKeyId`"),
            (Some("AES256"), Some("a-key"), "bucket", "`s3.kmsKeyId`"),
            (Some("AES256"), None, "file:///store", "`s3.sse`"),
        ] {
            let error = encryption(&written(sse, key, store)).expect_err(name);
            assert!(error.to_string().starts_with(name), "{error}");
        }
        assert!(EncryptionAlgorithm::parse("aes256").is_err());
    }
}
