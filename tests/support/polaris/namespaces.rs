//! Owns what can be asked about namespaces, and lists of what is in them. Refuses to know tokens and faults.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use polynya::names::Namespace;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Problem};
use super::identity::authorize::{Privilege, Securable};
use super::tables::Visit;

type Result<T, E = Problem> = std::result::Result<T, E>;

impl Visit<'_> {
    /// # Errors
    /// When the namespace is not there; then, when the caller may not.
    async fn may_at(&self, operation: &'static str, privilege: Privilege, namespace: &Namespace) -> Result<()> {
        self.warehouse.catalog.namespace_properties(namespace).await?;
        self.may(operation, &[(privilege, Securable::namespace(&namespace.to_string()))])
    }

    pub async fn list_namespaces(&self, parent: Option<&Namespace>, query: &HashMap<String, String>) -> Result<Answer> {
        match parent {
            Some(parent) => self.may_at("LIST_NAMESPACES", Privilege::NamespaceList, parent).await?,
            None => self.may("LIST_NAMESPACES", &[(Privilege::NamespaceList, Securable::namespace(""))])?,
        }
        let all = self.warehouse.catalog.list_namespaces(parent).await?;
        let (page, next) = page_of(all, query, ToString::to_string)?;
        let levels: Vec<&[String]> = page.iter().map(Namespace::levels).collect();
        Ok(Answer::json(&json!({ "namespaces": levels, "next-page-token": next })))
    }

    pub async fn create_namespace(&self, body: &[u8]) -> Result<Answer> {
        #[derive(Deserialize)]
        struct Request {
            namespace: Vec<String>,
            #[serde(default)]
            properties: Option<BTreeMap<String, String>>,
        }
        let request: Request = self.warehouse.parse(body)?;
        let Some((_, parent)) = request.namespace.split_last() else {
            let message = "Cannot create root namespace, as it already exists implicitly.";
            return Err(Problem::new(409, "AlreadyExistsException", message));
        };
        if parent.is_empty() {
            self.may("CREATE_NAMESPACE", &[(Privilege::NamespaceCreate, Securable::namespace(""))])?;
        } else {
            let parent = Namespace::new(parent.to_vec());
            self.may_at("CREATE_NAMESPACE", Privilege::NamespaceCreate, &parent).await?;
        }
        let namespace = Namespace::new(request.namespace);
        let mut properties = request.properties.unwrap_or_default();
        properties.entry("location".to_owned()).or_insert_with(|| self.warehouse.place_of(&namespace));
        self.warehouse.catalog.create_namespace(&namespace, &properties).await?;
        Ok(Answer::json(&json!({ "namespace": namespace.levels(), "properties": properties })))
    }

    pub async fn load_namespace(&self, namespace: &Namespace) -> Result<Answer> {
        self.may_at("LOAD_NAMESPACE_METADATA", Privilege::NamespaceReadProperties, namespace).await?;
        let properties = self.warehouse.catalog.namespace_properties(namespace).await?;
        Ok(Answer::json(&json!({ "namespace": namespace.levels(), "properties": properties })))
    }

    pub async fn namespace_exists(&self, namespace: &Namespace) -> Result<Answer> {
        self.may_at("NAMESPACE_EXISTS", Privilege::NamespaceList, namespace).await?;
        Ok(Answer::empty(204))
    }

    pub async fn update_namespace(&self, namespace: &Namespace, body: &[u8]) -> Result<Answer> {
        #[derive(Deserialize)]
        struct Request {
            #[serde(default)]
            removals: Option<Vec<String>>,
            #[serde(default)]
            updates: Option<BTreeMap<String, String>>,
        }
        self.may_at("UPDATE_NAMESPACE_PROPERTIES", Privilege::NamespaceWriteProperties, namespace).await?;
        let request: Request = self.warehouse.parse(body)?;
        let updates = request.updates.unwrap_or_default();
        let there = self.warehouse.catalog.namespace_properties(namespace).await?;
        let (removed, missing): (Vec<String>, Vec<String>) =
            request.removals.unwrap_or_default().into_iter().partition(|key| there.contains_key(key));
        self.warehouse.catalog.update_namespace(namespace, &removed, &updates).await?;
        let updated: Vec<&String> = updates.keys().collect();
        Ok(Answer::json(&json!({ "updated": updated, "removed": removed, "missing": missing })))
    }

    pub async fn drop_namespace(&self, namespace: &Namespace) -> Result<Answer> {
        self.may_at("DROP_NAMESPACE", Privilege::NamespaceDrop, namespace).await?;
        self.warehouse.catalog.drop_namespace(namespace).await?;
        Ok(Answer::empty(204))
    }

    pub async fn list_tables(&self, namespace: &Namespace, query: &HashMap<String, String>) -> Result<Answer> {
        self.may_at("LIST_TABLES", Privilege::TableList, namespace).await?;
        let mut all = self.warehouse.catalog.list_tables(namespace).await?;
        all.extend(self.warehouse.generated.iter().flat_map(|generated| generated.tables(namespace)));
        all.sort();
        let (page, next) = page_of(all, query, Clone::clone)?;
        let identifiers: Vec<Value> = page.iter().map(|name| json!({ "namespace": namespace.levels(), "name": name })).collect();
        Ok(Answer::json(&json!({ "identifiers": identifiers, "next-page-token": next })))
    }

    /// There are no views.
    pub async fn list_views(&self, namespace: &Namespace) -> Result<Answer> {
        self.may_at("LIST_VIEWS", Privilege::ViewList, namespace).await?;
        Ok(Answer::json(&json!({ "identifiers": [], "next-page-token": null })))
    }

    pub async fn report_metrics(&self, namespace: &Namespace, table: &str, body: &[u8]) -> Result<Answer> {
        self.warehouse.location_of(namespace, table).await?;
        let report: Value = self.warehouse.parse(body)?;
        let target = Securable::table(&namespace.to_string(), table);
        if report["report-type"] == "commit-report" {
            self.may("REPORT_WRITE_METRICS", &[(Privilege::TableWriteData, target)])?;
        } else {
            self.may("REPORT_READ_METRICS", &[(Privilege::TableReadData, target)])?;
        }
        Ok(Answer::empty(204))
    }
}

/// The part of a list that is asked for, and the token for the next one. The token says after which name it begins, so what comes
/// and goes meanwhile makes no name come twice.
fn page_of<T>(mut all: Vec<T>, query: &HashMap<String, String>, name: impl Fn(&T) -> String) -> Result<(Vec<T>, Option<String>)> {
    let given = |key: &str| query.get(key).filter(|value| !value.is_empty());
    if let Some(token) = given("pageToken") {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        let after =
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| Problem::invalid("Invalid page token"))?;
        all.retain(|one| name(one) > after);
    }
    let Some(size) = given("pageSize") else { return Ok((all, None)) };
    let size: usize = size.parse().ok().filter(|size| *size > 0).ok_or_else(|| Problem::invalid("Invalid page size"))?;
    let more = all.len() > size;
    all.truncate(size);
    let next = all.last().filter(|_| more).map(|last| BASE64_URL_SAFE_NO_PAD.encode(name(last)));
    Ok((all, next))
}
