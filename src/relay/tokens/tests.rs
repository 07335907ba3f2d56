//! Sources of tokens against a real token endpoint over HTTP.
