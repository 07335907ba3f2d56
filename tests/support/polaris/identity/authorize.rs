//! Owns what may be done by whom: Polaris' privileges, which of them imply which, what each operation needs, and how a refusal
//! reads. Refuses to know how a caller showed who it is.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be granted to a catalog role. Those of a table's parts are what an update is split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Privilege {
    CatalogManageAccess,
    CatalogManageContent,
    CatalogManageMetadata,
    NamespaceCreate,
    NamespaceDrop,
    NamespaceFullMetadata,
    NamespaceList,
    NamespaceReadProperties,
    NamespaceWriteProperties,
    TableCreate,
    TableDrop,
    TableFullMetadata,
    TableList,
    TableReadData,
    TableReadProperties,
    TableWriteData,
    TableWriteProperties,
    TableManageStructure,
    TableAssignUuid,
    TableUpgradeFormatVersion,
    TableAddSchema,
    TableSetCurrentSchema,
    TableAddPartitionSpec,
    TableAddSortOrder,
    TableSetDefaultSortOrder,
    TableAddSnapshot,
    TableSetSnapshotRef,
    TableRemoveSnapshots,
    TableRemoveSnapshotRef,
    TableSetLocation,
    TableSetProperties,
    TableRemoveProperties,
    TableSetStatistics,
    TableRemoveStatistics,
    TableRemovePartitionSpecs,
    ViewCreate,
    ViewDrop,
    ViewFullMetadata,
    ViewList,
    ViewReadProperties,
    ViewWriteProperties,
}

use Privilege::*;

impl Privilege {
    /// Whether who holds `self` has `needed` too.
    fn implies(self, needed: Self) -> bool {
        if self == needed {
            return true;
        }
        match self {
            CatalogManageContent => needed != CatalogManageAccess,
            CatalogManageMetadata => {
                !matches!(needed, CatalogManageAccess | CatalogManageContent | TableReadData | TableWriteData)
            }
            NamespaceFullMetadata => needed.is_of_namespaces(),
            NamespaceWriteProperties => matches!(needed, NamespaceList | NamespaceReadProperties),
            NamespaceReadProperties | NamespaceCreate => needed == NamespaceList,
            TableFullMetadata => needed.is_of_tables() && !matches!(needed, TableReadData | TableWriteData),
            TableWriteData => {
                matches!(needed, TableList | TableReadProperties | TableReadData | TableWriteProperties) || needed.is_of_updates()
            }
            TableWriteProperties => matches!(needed, TableList | TableReadProperties) || needed.is_of_updates(),
            TableManageStructure => needed.is_of_updates() && !matches!(needed, TableAddSnapshot | TableSetSnapshotRef),
            TableReadData => matches!(needed, TableList | TableReadProperties),
            TableReadProperties | TableCreate => needed == TableList,
            ViewFullMetadata => needed >= ViewCreate,
            ViewWriteProperties => matches!(needed, ViewList | ViewReadProperties),
            ViewReadProperties | ViewCreate => needed == ViewList,
            _ => false,
        }
    }

    fn is_of_namespaces(self) -> bool {
        (NamespaceCreate..=NamespaceWriteProperties).contains(&self)
    }

    fn is_of_tables(self) -> bool {
        (TableCreate..=TableRemovePartitionSpecs).contains(&self)
    }

    fn is_of_updates(self) -> bool {
        (TableManageStructure..=TableRemovePartitionSpecs).contains(&self)
    }
}

/// One grant to a catalog role: on the whole catalog, on a namespace and all below it, or on one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub privilege: Privilege,
    /// Levels joined by dots; none means the whole catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

impl Grant {
    /// On all of the catalog.
    pub fn everywhere(privilege: Privilege) -> Self {
        Self { privilege, namespace: None, table: None }
    }

    /// On a namespace and what is in it.
    pub fn on_namespace(privilege: Privilege, namespace: &str) -> Self {
        Self { privilege, namespace: Some(namespace.to_owned()), table: None }
    }

    /// On one table.
    pub fn on_table(privilege: Privilege, namespace: &str, table: &str) -> Self {
        Self { privilege, namespace: Some(namespace.to_owned()), table: Some(table.to_owned()) }
    }

    /// Whether it gives `needed` on the target.
    pub fn gives(&self, needed: Privilege, target: &Securable) -> bool {
        self.privilege.implies(needed) && self.covers(target)
    }

    fn covers(&self, target: &Securable) -> bool {
        let Some(granted) = &self.namespace else { return true };
        match &self.table {
            Some(table) => target.namespace == *granted && target.table.as_ref() == Some(table),
            None => {
                let below = target.namespace.strip_prefix(granted.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}

/// What an operation is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Securable {
    /// Levels joined by dots; empty means the catalog itself.
    pub namespace: String,
    pub table: Option<String>,
}

impl Securable {
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), table: None }
    }

    pub fn table(namespace: &str, table: &str) -> Self {
        Self { namespace: namespace.to_owned(), table: Some(table.to_owned()) }
    }
}

/// A caller whose token was in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub principal: String,
    /// Principal roles that its token activates.
    pub roles: BTreeSet<String>,
}

/// Why a caller may not do what it asked for, in Polaris' words.
#[derive(Debug)]
pub struct Denial {
    pub principal: String,
    pub roles: BTreeSet<String>,
    /// The principal roles, and the catalog roles that they use in this catalog.
    pub activated: BTreeSet<String>,
    pub operation: &'static str,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        write!(
            f,
            "Principal '{}' with activated PrincipalRoles '[{}]' and activated grants via '[{}]' is not authorized for op {}",
            self.principal,
            list(&self.roles),
            list(&self.activated),
            self.operation
        )
    }
}

/// What the updates of one commit need, each under its own name, in the order in which Polaris looks at them.
pub fn of_updates(updates: &[Value]) -> Vec<(&'static str, Privilege)> {
    let mut needed: Vec<(&'static str, Privilege)> = updates.iter().map(of_update).collect();
    if needed.is_empty() {
        needed.push(("UPDATE_TABLE", TableWriteProperties));
    }
    // The plain update comes first there, the others in the order of the privileges here.
    needed.sort_by_key(|(_, privilege)| (*privilege != TableWriteProperties, *privilege));
    needed.dedup();
    needed
}

fn of_update(update: &Value) -> (&'static str, Privilege) {
    match update["action"].as_str().unwrap_or_default() {
        "assign-uuid" => ("ASSIGN_TABLE_UUID", TableAssignUuid),
        "upgrade-format-version" => ("UPGRADE_TABLE_FORMAT_VERSION", TableUpgradeFormatVersion),
        "add-schema" => ("ADD_TABLE_SCHEMA", TableAddSchema),
        "set-current-schema" => ("SET_TABLE_CURRENT_SCHEMA", TableSetCurrentSchema),
        "add-spec" => ("ADD_TABLE_PARTITION_SPEC", TableAddPartitionSpec),
        "add-sort-order" => ("ADD_TABLE_SORT_ORDER", TableAddSortOrder),
        "set-default-sort-order" => ("SET_TABLE_DEFAULT_SORT_ORDER", TableSetDefaultSortOrder),
        "add-snapshot" => ("ADD_TABLE_SNAPSHOT", TableAddSnapshot),
        "set-snapshot-ref" => ("SET_TABLE_SNAPSHOT_REF", TableSetSnapshotRef),
        "remove-snapshots" => ("REMOVE_TABLE_SNAPSHOTS", TableRemoveSnapshots),
        "remove-snapshot-ref" => ("REMOVE_TABLE_SNAPSHOT_REF", TableRemoveSnapshotRef),
        "set-location" => ("SET_TABLE_LOCATION", TableSetLocation),
        "set-properties" => ("SET_TABLE_PROPERTIES", TableSetProperties),
        "remove-properties" => ("REMOVE_TABLE_PROPERTIES", TableRemoveProperties),
        "set-statistics" => ("SET_TABLE_STATISTICS", TableSetStatistics),
        "remove-statistics" => ("REMOVE_TABLE_STATISTICS", TableRemoveStatistics),
        "remove-partition-specs" => ("REMOVE_TABLE_PARTITION_SPECS", TableRemovePartitionSpecs),
        _ => ("UPDATE_TABLE", TableWriteProperties),
    }
}
