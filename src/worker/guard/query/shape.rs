//! Owns the allow-list of the nodes in DuckDB's syntax tree: their classes, their types, and every field that they may have.
//! Refuses to judge what stands in the fields; `select` does that, and a class, type or field that is not here it refuses by name.

/// How a field's content is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Names, flags, numbers: judged by nothing but having no node in it.
    Plain,
    /// An expression, or null.
    Expr,
    /// A list of expressions.
    Exprs,
    /// The select list: expressions whose names the client sees.
    Items,
    /// A list of lists of expressions.
    Rows,
    /// A list of objects with one expression under each of these keys.
    Pairs,
    /// Something to read FROM.
    Table,
    /// The call of a table function.
    Call,
    /// A query node.
    Node,
    /// A statement: a query node and its parameters.
    Select,
    /// Result modifiers, or one of them: ORDER BY, LIMIT, DISTINCT.
    Modifiers,
    /// Items of an ORDER BY.
    Orders,
    /// A type.
    Type,
    /// A list of types.
    Types,
    /// A constant with its type.
    Value,
    /// CTEs; judged before everything else of their node.
    Ctes,
    /// TABLESAMPLE.
    Sample,
    /// AT (VERSION | TIMESTAMP => …).
    At,
    /// The columns of PIVOT and UNPIVOT.
    Pivots,
    /// Must be empty or null: a field that is only there for trees of another kind.
    Nothing,
}

/// One class of node.
pub(super) struct Shape {
    pub class: &'static str,
    /// The values that its `type` may have.
    pub types: &'static [&'static str],
    pub fields: &'static [(&'static str, Part)],
}

use Part::{
    At, Call, Ctes, Expr, Exprs, Items, Modifiers, Node, Nothing, Orders, Pairs, Pivots, Plain, Rows, Sample, Select, Table,
    Type, Types, Value,
};

/// Expressions, by `class`.
pub(super) const EXPRESSIONS: &[Shape] = &[
    Shape { class: "BETWEEN", types: &["COMPARE_BETWEEN"], fields: &[("input", Expr), ("lower", Expr), ("upper", Expr)] },
    Shape { class: "CASE", types: &["CASE_EXPR"], fields: &[("case_checks", Pairs), ("else_expr", Expr)] },
    Shape { class: "CAST", types: &["OPERATOR_CAST"], fields: &[("child", Expr), ("cast_type", Type), ("try_cast", Plain)] },
    Shape { class: "COLLATE", types: &["COLLATE"], fields: &[("child", Expr), ("collation", Plain)] },
    Shape { class: "COLUMN_REF", types: &["COLUMN_REF"], fields: &[("column_names", Plain)] },
    Shape {
        class: "COMPARISON",
        types: &[
            "COMPARE_EQUAL",
            "COMPARE_NOTEQUAL",
            "COMPARE_LESSTHAN",
            "COMPARE_GREATERTHAN",
            "COMPARE_LESSTHANOREQUALTO",
            "COMPARE_GREATERTHANOREQUALTO",
            "COMPARE_DISTINCT_FROM",
            "COMPARE_NOT_DISTINCT_FROM",
        ],
        fields: &[("left", Expr), ("right", Expr)],
    },
    Shape { class: "CONJUNCTION", types: &["CONJUNCTION_AND", "CONJUNCTION_OR"], fields: &[("children", Exprs)] },
    Shape { class: "CONSTANT", types: &["VALUE_CONSTANT"], fields: &[("value", Value)] },
    Shape {
        class: "FUNCTION",
        types: &["FUNCTION"],
        fields: &[
            ("function_name", Plain),
            ("schema", Plain),
            ("catalog", Plain),
            ("children", Exprs),
            ("filter", Expr),
            ("order_bys", Modifiers),
            ("distinct", Plain),
            ("is_operator", Plain),
            ("export_state", Plain),
        ],
    },
    Shape { class: "LAMBDA", types: &["LAMBDA"], fields: &[("lhs", Expr), ("expr", Expr)] },
    Shape {
        class: "OPERATOR",
        types: &[
            "ARRAY_CONSTRUCTOR",
            "ARRAY_EXTRACT",
            "ARRAY_SLICE",
            "COMPARE_IN",
            "COMPARE_NOT_IN",
            "GROUPING_FUNCTION",
            "OPERATOR_COALESCE",
            "OPERATOR_IS_NOT_NULL",
            "OPERATOR_IS_NULL",
            "OPERATOR_NOT",
            "OPERATOR_NULLIF",
            "OPERATOR_TRY",
            "OPERATOR_UNPACK",
            "STRUCT_EXTRACT",
        ],
        fields: &[("children", Exprs)],
    },
    Shape { class: "PARAMETER", types: &["VALUE_PARAMETER"], fields: &[("identifier", Plain)] },
    Shape { class: "POSITIONAL_REFERENCE", types: &["POSITIONAL_REFERENCE"], fields: &[("index", Plain)] },
    Shape {
        class: "STAR",
        types: &["STAR"],
        fields: &[
            ("relation_name", Plain),
            ("exclude_list", Plain),
            ("qualified_exclude_list", Plain),
            ("replace_list", Pairs),
            ("rename_list", Plain),
            ("columns", Plain),
            ("expr", Expr),
        ],
    },
    Shape {
        class: "SUBQUERY",
        types: &["SUBQUERY"],
        fields: &[("subquery_type", Plain), ("subquery", Select), ("child", Expr), ("comparison_type", Plain)],
    },
    Shape {
        class: "WINDOW",
        types: &[
            "WINDOW_AGGREGATE",
            "WINDOW_CUME_DIST",
            "WINDOW_FILL",
            "WINDOW_FIRST_VALUE",
            "WINDOW_LAG",
            "WINDOW_LAST_VALUE",
            "WINDOW_LEAD",
            "WINDOW_NTH_VALUE",
            "WINDOW_NTILE",
            "WINDOW_PERCENT_RANK",
            "WINDOW_RANK",
            "WINDOW_RANK_DENSE",
            "WINDOW_ROW_NUMBER",
        ],
        fields: &[
            ("function_name", Plain),
            ("schema", Plain),
            ("catalog", Plain),
            ("children", Exprs),
            ("partitions", Exprs),
            ("orders", Orders),
            ("start", Plain),
            ("end", Plain),
            ("start_expr", Expr),
            ("end_expr", Expr),
            ("offset_expr", Expr),
            ("default_expr", Expr),
            ("ignore_nulls", Plain),
            ("filter_expr", Expr),
            ("exclude_clause", Plain),
            ("distinct", Plain),
            ("arg_orders", Orders),
        ],
    },
];

/// Query nodes, by `type`.
pub(super) const NODES: &[Shape] = &[
    Shape {
        class: "SELECT_NODE",
        types: &[],
        fields: &[
            ("modifiers", Modifiers),
            ("cte_map", Ctes),
            ("select_list", Items),
            ("from_table", Table),
            ("where_clause", Expr),
            ("group_expressions", Exprs),
            ("group_sets", Plain),
            ("aggregate_handling", Plain),
            ("having", Expr),
            ("sample", Sample),
            ("qualify", Expr),
        ],
    },
    Shape {
        class: "SET_OPERATION_NODE",
        types: &[],
        fields: &[
            ("modifiers", Modifiers),
            ("cte_map", Ctes),
            ("setop_type", Plain),
            ("setop_all", Plain),
            ("left", Node),
            ("right", Node),
        ],
    },
    Shape {
        class: "RECURSIVE_CTE_NODE",
        types: &[],
        fields: &[
            ("modifiers", Modifiers),
            ("cte_map", Ctes),
            ("cte_name", Plain),
            ("union_all", Plain),
            ("left", Node),
            ("right", Node),
            ("aliases", Plain),
            ("key_targets", Exprs),
        ],
    },
];

/// What stands in FROM, by `type`.
pub(super) const TABLES: &[Shape] = &[
    Shape {
        class: "BASE_TABLE",
        types: &[],
        fields: &[
            ("sample", Sample),
            ("catalog_name", Plain),
            ("schema_name", Plain),
            ("table_name", Plain),
            ("column_name_alias", Plain),
            ("at_clause", At),
        ],
    },
    Shape { class: "EMPTY", types: &[], fields: &[("sample", Sample)] },
    Shape {
        class: "EXPRESSION_LIST",
        types: &[],
        fields: &[("sample", Sample), ("expected_names", Plain), ("expected_types", Types), ("values", Rows)],
    },
    Shape {
        class: "JOIN",
        types: &[],
        fields: &[
            ("sample", Sample),
            ("left", Table),
            ("right", Table),
            ("condition", Expr),
            ("join_type", Plain),
            ("ref_type", Plain),
            ("using_columns", Plain),
            ("delim_flipped", Plain),
            ("duplicate_eliminated_columns", Nothing),
        ],
    },
    Shape {
        class: "PIVOT",
        types: &[],
        fields: &[
            ("sample", Sample),
            ("source", Table),
            ("aggregates", Exprs),
            ("unpivot_names", Plain),
            ("pivots", Pivots),
            ("groups", Plain),
            ("column_name_alias", Plain),
            ("include_nulls", Plain),
        ],
    },
    Shape { class: "SUBQUERY", types: &[], fields: &[("sample", Sample), ("subquery", Select), ("column_name_alias", Plain)] },
    Shape {
        class: "TABLE_FUNCTION",
        types: &[],
        fields: &[("sample", Sample), ("function", Call), ("column_name_alias", Plain), ("with_ordinality", Plain)],
    },
];

/// Result modifiers, by `type`.
pub(super) const MODIFIERS: &[Shape] = &[
    Shape { class: "DISTINCT_MODIFIER", types: &[], fields: &[("distinct_on_targets", Exprs)] },
    Shape { class: "LIMIT_MODIFIER", types: &[], fields: &[("limit", Expr), ("offset", Expr)] },
    Shape { class: "LIMIT_PERCENT_MODIFIER", types: &[], fields: &[("limit", Expr), ("offset", Expr)] },
    Shape { class: "ORDER_MODIFIER", types: &[], fields: &[("orders", Orders)] },
];

/// Types that a statement may name, as DuckDB's tree has them.
pub(super) const TYPES: &[&str] = &[
    "NULL",
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "VARCHAR",
    "CHAR",
    "BLOB",
    "BIT",
    "BIGNUM",
    "DATE",
    "TIME",
    "TIME_NS",
    "TIME WITH TIME ZONE",
    "TIMESTAMP",
    "TIMESTAMP_S",
    "TIMESTAMP_MS",
    "TIMESTAMP_NS",
    "TIMESTAMP WITH TIME ZONE",
    "INTERVAL",
    "UUID",
    "LIST",
    "ARRAY",
    "MAP",
    "STRUCT",
    "UNION",
    "VARIANT",
    "UNBOUND",
];

/// Names of types that DuckDB's parser leaves for the binder to look up; no client can make another.
pub(super) const NAMED_TYPES: &[&str] = &["bignum", "enum", "json", "uuid", "varint", "variant", "geometry", "int128", "uint128"];
