-- The system tables: what each is made of, with the columns and types of DuckDB's own table of that name, which a test compares. The
-- worker makes them for the statement that reads them, as views over the listings that the gateway has sent.
--
--   --- schema.table: listing(catalog column, schema column, table column)
--   the query; without a listing it needs nothing of the gateway
--
-- A condition of the client's on one of the columns in parentheses narrows the listing before it is made. As in PostgreSQL, pg_catalog
-- shows the session's catalog only. Its constraints, indexes, views and functions are empty: the lakehouse has none. Owners are
-- called as in DuckDB.
--
--   --- function name(parameters)
--   the expression: functions that DuckDB would answer from its own catalog, or that tools expect from PostgreSQL
--
--   --- let name
--   what stands for {name} in the texts above it and below. Given from outside are {schemata} {tables} {columns}, the listings,
--   {catalogs}, a list of the attached ones, and {catalog} {schema}, the session's as texts.

--- let table_oid
CAST(md5_number_lower(concat_ws(chr(31), 'table', table_catalog, table_schema, table_name)) >> 11 AS BIGINT)

--- let schema_oid
CAST(md5_number_lower(concat_ws(chr(31), 'schema', table_catalog, table_schema)) >> 11 AS BIGINT)

--- let pg_catalog_oid
CAST(md5_number_lower(concat_ws(chr(31), 'schema', {catalog}, 'pg_catalog')) >> 11 AS BIGINT)

--- let catalog_oid
CAST(md5_number_lower(concat_ws(chr(31), 'catalog', table_catalog)) >> 11 AS BIGINT)

--- let is_decimal
(starts_with(data_type, 'DECIMAL(') AND ends_with(data_type, ')'))

--- let precision
CASE WHEN {is_decimal} THEN CAST(regexp_extract(data_type, '[0-9]+') AS INTEGER)
        ELSE CASE data_type WHEN 'INTEGER' THEN 32 WHEN 'BIGINT' THEN 64 WHEN 'FLOAT' THEN 24 WHEN 'DOUBLE' THEN 53 END END

--- let radix
CASE WHEN {is_decimal} THEN 10 WHEN data_type IN ('INTEGER', 'BIGINT', 'FLOAT', 'DOUBLE') THEN 2 END

--- let scale
CASE WHEN {is_decimal} THEN CAST(regexp_extract(data_type, ',([0-9]+)', 1) AS INTEGER)
        WHEN data_type IN ('INTEGER', 'BIGINT', 'FLOAT', 'DOUBLE') THEN 0 END

--- let types
(VALUES (16, 'bool', 1, 'B', 'BOOLEAN'), (17, 'bytea', 16, 'X', 'BLOB'), (20, 'int8', 8, 'N', 'BIGINT'),
    (21, 'int2', 2, 'N', 'SMALLINT'), (23, 'int4', 4, 'N', 'INTEGER'), (114, 'json', 16, 'S', 'JSON'), (700, 'float4', 4, 'N', 'FLOAT'),
    (701, 'float8', 8, 'N', 'DOUBLE'), (1043, 'varchar', 16, 'S', 'VARCHAR'), (1082, 'date', 4, 'D', 'DATE'),
    (1083, 'time', 8, 'D', 'TIME'), (1114, 'timestamp', 8, 'D', 'TIMESTAMP'),
    (1184, 'timestamptz', 8, 'D', 'TIMESTAMP WITH TIME ZONE'), (1186, 'interval', 16, 'D', 'INTERVAL'),
    (1266, 'timetz', 8, 'D', 'TIME WITH TIME ZONE'), (1560, 'bit', 16, 'X', 'BIT'), (1700, 'numeric', NULL, 'N', 'DECIMAL'),
    (2950, 'uuid', 16, 'X', 'UUID'), (10100, 'struct', 0, 'C', 'STRUCT'), (10101, 'list', 16, 'C', 'LIST'),
    (10102, 'map', 16, 'C', 'MAP'), (10103, 'hugeint', 16, 'N', 'HUGEINT'), (10104, 'timestamp_ns', 8, 'D', 'TIMESTAMP_NS'),
    (10105, 'timestamptz_ns', 8, 'D', 'TIMESTAMP_NS WITH TIME ZONE'), (10106, 'variant', 0, 'X', 'VARIANT'),
    (10107, 'geometry', 16, 'X', 'GEOMETRY')) AS types(oid, name, len, category, type)

--- let type_oid
CASE WHEN ends_with(data_type, ']') THEN 10101 WHEN starts_with(data_type, 'STRUCT(') THEN 10100
        WHEN starts_with(data_type, 'MAP(') THEN 10102 WHEN {is_decimal} THEN 1700
        ELSE (SELECT CAST(oid AS BIGINT) FROM {types} WHERE type = data_type) END

--- information_schema.schemata: schemata(catalog_name, schema_name)
SELECT
    catalog_name, schema_name, 'duckdb' AS schema_owner, NULL::VARCHAR AS default_character_set_catalog,
    NULL::VARCHAR AS default_character_set_schema, NULL::VARCHAR AS default_character_set_name, NULL::VARCHAR AS sql_path
FROM {schemata}

--- information_schema.tables: tables(table_catalog, table_schema, table_name)
SELECT
    table_catalog, table_schema, table_name, table_type, NULL::VARCHAR AS self_referencing_column_name,
    NULL::VARCHAR AS reference_generation, NULL::VARCHAR AS user_defined_type_catalog,
    NULL::VARCHAR AS user_defined_type_schema, NULL::VARCHAR AS user_defined_type_name, 'YES' AS is_insertable_into,
    'NO' AS is_typed, NULL::VARCHAR AS commit_action, NULL::VARCHAR AS TABLE_COMMENT
FROM {tables}

--- information_schema.columns: columns(table_catalog, table_schema, table_name)
SELECT
    table_catalog, table_schema, table_name, column_name, ordinal_position, column_default, is_nullable, data_type,
    NULL::INTEGER AS character_maximum_length, NULL::INTEGER AS character_octet_length, {precision} AS numeric_precision,
    {radix} AS numeric_precision_radix, {scale} AS numeric_scale, NULL::INTEGER AS datetime_precision,
    NULL::VARCHAR AS interval_type, NULL::INTEGER AS interval_precision, NULL::VARCHAR AS character_set_catalog,
    NULL::VARCHAR AS character_set_schema, NULL::VARCHAR AS character_set_name, NULL::VARCHAR AS collation_catalog,
    NULL::VARCHAR AS collation_schema, NULL::VARCHAR AS collation_name, NULL::VARCHAR AS domain_catalog,
    NULL::VARCHAR AS domain_schema, NULL::VARCHAR AS domain_name, NULL::VARCHAR AS udt_catalog, NULL::VARCHAR AS udt_schema,
    NULL::VARCHAR AS udt_name, NULL::VARCHAR AS scope_catalog, NULL::VARCHAR AS scope_schema, NULL::VARCHAR AS scope_name,
    NULL::BIGINT AS maximum_cardinality, NULL::VARCHAR AS dtd_identifier, NULL::BOOLEAN AS is_self_referencing,
    NULL::BOOLEAN AS is_identity, NULL::VARCHAR AS identity_generation, NULL::VARCHAR AS identity_start,
    NULL::VARCHAR AS identity_increment, NULL::VARCHAR AS identity_maximum, NULL::VARCHAR AS identity_minimum,
    NULL::BOOLEAN AS identity_cycle, NULL::VARCHAR AS is_generated, NULL::VARCHAR AS generation_expression,
    NULL::BOOLEAN AS is_updatable, comment AS COLUMN_COMMENT
FROM {columns}

--- information_schema.character_sets
SELECT
    NULL::VARCHAR AS character_set_catalog, NULL::VARCHAR AS character_set_schema, 'UTF8' AS character_set_name,
    'UCS' AS character_repertoire, 'UTF8' AS form_of_use, {catalog} AS default_collate_catalog,
    'pg_catalog' AS default_collate_schema, 'ucs_basic' AS default_collate_name
WHERE true

--- information_schema.views
SELECT
    NULL::VARCHAR AS table_catalog, NULL::VARCHAR AS table_schema, NULL::VARCHAR AS table_name,
    NULL::VARCHAR AS view_definition, NULL::VARCHAR AS check_option, NULL::VARCHAR AS is_updatable,
    NULL::VARCHAR AS is_insertable_into, NULL::VARCHAR AS is_trigger_updatable, NULL::VARCHAR AS is_trigger_deletable,
    NULL::VARCHAR AS is_trigger_insertable_into
WHERE false

--- information_schema.table_constraints
SELECT
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS table_catalog, NULL::VARCHAR AS table_schema, NULL::VARCHAR AS table_name,
    NULL::VARCHAR AS constraint_type, NULL::VARCHAR AS is_deferrable, NULL::VARCHAR AS initially_deferred,
    NULL::VARCHAR AS enforced, NULL::VARCHAR AS nulls_distinct
WHERE false

--- information_schema.key_column_usage
SELECT
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS table_catalog, NULL::VARCHAR AS table_schema, NULL::VARCHAR AS table_name, NULL::VARCHAR AS column_name,
    NULL::BIGINT AS ordinal_position, NULL::BIGINT AS position_in_unique_constraint
WHERE false

--- information_schema.referential_constraints
SELECT
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS unique_constraint_catalog, NULL::VARCHAR AS unique_constraint_schema,
    NULL::VARCHAR AS unique_constraint_name, NULL::VARCHAR AS match_option, NULL::VARCHAR AS update_rule,
    NULL::VARCHAR AS delete_rule
WHERE false

--- information_schema.constraint_column_usage
SELECT
    NULL::VARCHAR AS table_catalog, NULL::VARCHAR AS table_schema, NULL::VARCHAR AS table_name, NULL::VARCHAR AS column_name,
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS constraint_type, NULL::VARCHAR AS constraint_text
WHERE false

--- information_schema.constraint_table_usage
SELECT
    NULL::VARCHAR AS table_catalog, NULL::VARCHAR AS table_schema, NULL::VARCHAR AS table_name,
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS constraint_type
WHERE false

--- information_schema.check_constraints
SELECT
    NULL::VARCHAR AS constraint_catalog, NULL::VARCHAR AS constraint_schema, NULL::VARCHAR AS constraint_name,
    NULL::VARCHAR AS check_clause
WHERE false

--- pg_catalog.pg_database
SELECT
    {catalog_oid} AS oid, table_catalog AS datname, true AS datallowconn, false AS datistemplate
FROM (SELECT unnest({catalogs}) AS table_catalog)

--- pg_catalog.pg_namespace: schemata(, nspname)
SELECT
    {schema_oid} AS oid, table_schema AS nspname, 0 AS nspowner, NULL::INTEGER AS nspacl
FROM (SELECT catalog_name AS table_catalog, schema_name AS table_schema FROM {schemata}
    UNION ALL VALUES ({catalog}, 'pg_catalog'), ({catalog}, 'information_schema'))
WHERE table_catalog = {catalog}

--- pg_catalog.pg_class: tables(, , relname)
SELECT
    {table_oid} AS oid, table_name AS relname, {schema_oid} AS relnamespace, 0 AS reltype, 0 AS reloftype, 0 AS relowner,
    0 AS relam, 0 AS relfilenode, 0 AS reltablespace, 0 AS relpages, CAST(-1 AS FLOAT) AS reltuples, 0 AS relallvisible,
    0 AS reltoastrelid, 0 AS reltoastidxid, false AS relhasindex, false AS relisshared, 'p' AS relpersistence, 'r' AS relkind,
    NULL::BIGINT AS relnatts, CAST(0 AS BIGINT) AS relchecks, false AS relhasoids, false AS relhaspkey, false AS relhasrules,
    false AS relhastriggers, false AS relhassubclass, false AS relrowsecurity, true AS relispopulated,
    NULL::INTEGER AS relreplident, false AS relispartition, 0 AS relrewrite, 0 AS relfrozenxid, NULL::INTEGER AS relminmxid,
    NULL::INTEGER AS relacl, NULL::INTEGER AS reloptions, NULL::INTEGER AS relpartbound
FROM {tables}
WHERE table_catalog = {catalog}

--- pg_catalog.pg_tables: tables(, schemaname, tablename)
SELECT
    table_schema AS schemaname, table_name AS tablename, 'duckdb' AS tableowner, NULL::INTEGER AS tablespace,
    false AS hasindexes, false AS hasrules, false AS hastriggers
FROM {tables}
WHERE table_catalog = {catalog}

--- pg_catalog.pg_attribute: columns()
SELECT
    {table_oid} AS attrelid, column_name AS attname, {type_oid} AS atttypid, 0 AS attstattarget, NULL::INTEGER AS attlen,
    ordinal_position AS attnum, 0 AS attndims, -1 AS attcacheoff,
    CASE WHEN {is_decimal} THEN {precision} * 1000 + {scale} ELSE -1 END AS atttypmod, false AS attbyval,
    NULL::INTEGER AS attstorage, NULL::INTEGER AS attalign, is_nullable = 'NO' AS attnotnull,
    column_default IS NOT NULL AS atthasdef, false AS atthasmissing, '' AS attidentity, '' AS attgenerated,
    false AS attisdropped, true AS attislocal, 0 AS attinhcount, 0 AS attcollation, NULL::INTEGER AS attcompression,
    NULL::INTEGER AS attacl, NULL::INTEGER AS attoptions, NULL::INTEGER AS attfdwoptions, NULL::INTEGER AS attmissingval
FROM {columns}
WHERE table_catalog = {catalog}

--- pg_catalog.pg_attrdef: columns()
SELECT
    ordinal_position AS oid, {table_oid} AS adrelid, ordinal_position AS adnum, column_default AS adbin
FROM {columns}
WHERE table_catalog = {catalog} AND column_default IS NOT NULL

--- pg_catalog.pg_description: columns()
SELECT
    {table_oid} AS objoid, '1259' AS classoid, ordinal_position AS objsubid, comment AS description
FROM {columns}
WHERE table_catalog = {catalog} AND comment IS NOT NULL

--- pg_catalog.pg_type
SELECT
    CAST(oid AS BIGINT) AS oid, name AS typname, {pg_catalog_oid} AS typnamespace, 0 AS typowner, CAST(len AS BIGINT) AS typlen,
    false AS typbyval, 'b' AS typtype, category AS typcategory, false AS typispreferred, true AS typisdefined,
    NULL::INTEGER AS typdelim, NULL::INTEGER AS typrelid, NULL::INTEGER AS typsubscript, NULL::INTEGER AS typelem,
    NULL::INTEGER AS typarray, NULL::INTEGER AS typinput, NULL::INTEGER AS typoutput, NULL::INTEGER AS typreceive,
    NULL::INTEGER AS typsend, NULL::INTEGER AS typmodin, NULL::INTEGER AS typmodout, NULL::INTEGER AS typanalyze,
    'd' AS typalign, 'p' AS typstorage, NULL::INTEGER AS typnotnull, NULL::INTEGER AS typbasetype, NULL::INTEGER AS typtypmod,
    NULL::INTEGER AS typndims, NULL::INTEGER AS typcollation, NULL::INTEGER AS typdefaultbin, NULL::INTEGER AS typdefault,
    NULL::INTEGER AS typacl
FROM {types}

--- pg_catalog.pg_am
SELECT
    0 AS oid, 'art' AS amname, NULL::INTEGER AS amhandler, 'i' AS amtype
WHERE true

--- pg_catalog.pg_tablespace
SELECT
    0 AS oid, 'pg_default' AS spcname, 0 AS spcowner, NULL::INTEGER AS spcacl, NULL::INTEGER AS spcoptions
WHERE true

--- pg_catalog.pg_collation
SELECT
    NULL::BIGINT AS oid, NULL::VARCHAR AS collname
WHERE false

--- pg_catalog.pg_constraint
SELECT
    NULL::BIGINT AS oid, NULL::VARCHAR AS conname, NULL::BIGINT AS connamespace, NULL::VARCHAR AS contype,
    NULL::BOOLEAN AS condeferrable, NULL::BOOLEAN AS condeferred, NULL::BOOLEAN AS convalidated, NULL::BIGINT AS conrelid,
    NULL::INTEGER AS contypid, NULL::INTEGER AS conindid, NULL::INTEGER AS conparentid, NULL::INTEGER AS confrelid,
    NULL::INTEGER AS confupdtype, NULL::INTEGER AS confdeltype, NULL::INTEGER AS confmatchtype, NULL::BOOLEAN AS conislocal,
    NULL::INTEGER AS coninhcount, NULL::BOOLEAN AS connoinherit, NULL::BIGINT[] AS conkey, NULL::INTEGER AS confkey,
    NULL::INTEGER AS conpfeqop, NULL::INTEGER AS conppeqop, NULL::INTEGER AS conffeqop, NULL::INTEGER AS conexclop,
    NULL::VARCHAR AS conbin
WHERE false

--- pg_catalog.pg_depend
SELECT
    NULL::BIGINT AS classid, NULL::BIGINT AS objid, NULL::INTEGER AS objsubid, NULL::BIGINT AS refclassid,
    NULL::BIGINT AS refobjid, NULL::INTEGER AS refobjsubid, NULL::VARCHAR AS deptype
WHERE false

--- pg_catalog.pg_enum
SELECT
    NULL::INTEGER AS oid, NULL::BIGINT AS enumtypid, NULL::INTEGER AS enumsortorder, NULL::VARCHAR AS enumlabel
WHERE false

--- pg_catalog.pg_index
SELECT
    NULL::BIGINT AS indexrelid, NULL::BIGINT AS indrelid, NULL::INTEGER AS indnatts, NULL::INTEGER AS indnkeyatts,
    NULL::BOOLEAN AS indisunique, NULL::BOOLEAN AS indisprimary, NULL::BOOLEAN AS indisexclusion, NULL::BOOLEAN AS indimmediate,
    NULL::BOOLEAN AS indisclustered, NULL::BOOLEAN AS indisvalid, NULL::BOOLEAN AS indcheckxmin, NULL::BOOLEAN AS indisready,
    NULL::BOOLEAN AS indislive, NULL::BOOLEAN AS indisreplident, NULL::INTEGER[] AS indkey, NULL::BIGINT[] AS indcollation,
    NULL::BIGINT[] AS indclass, NULL::INTEGER[] AS indoption, NULL::VARCHAR AS indexprs, NULL::INTEGER AS indpred
WHERE false

--- pg_catalog.pg_indexes
SELECT
    NULL::VARCHAR AS schemaname, NULL::VARCHAR AS tablename, NULL::VARCHAR AS indexname, NULL::INTEGER AS tablespace,
    NULL::VARCHAR AS indexdef
WHERE false

--- pg_catalog.pg_proc
SELECT
    NULL::BIGINT AS oid, NULL::VARCHAR AS proname, NULL::BIGINT AS pronamespace, NULL::INTEGER AS proowner,
    NULL::INTEGER AS prolang, NULL::INTEGER AS procost, NULL::INTEGER AS prorows, NULL::VARCHAR AS provariadic,
    NULL::INTEGER AS prosupport, NULL::VARCHAR AS prokind, NULL::BOOLEAN AS prosecdef, NULL::BOOLEAN AS proleakproof,
    NULL::BOOLEAN AS proisstrict, NULL::BOOLEAN AS proretset, NULL::VARCHAR AS provolatile, NULL::VARCHAR AS proparallel,
    NULL::BIGINT AS pronargs, NULL::INTEGER AS pronargdefaults, NULL::VARCHAR AS prorettype, NULL::VARCHAR[] AS proargtypes,
    NULL::INTEGER AS proallargtypes, NULL::INTEGER AS proargmodes, NULL::VARCHAR[] AS proargnames,
    NULL::INTEGER AS proargdefaults, NULL::INTEGER AS protrftypes, NULL::INTEGER AS prosrc, NULL::INTEGER AS probin,
    NULL::VARCHAR AS prosqlbody, NULL::INTEGER AS proconfig, NULL::INTEGER AS proacl, NULL::BOOLEAN AS proisagg
WHERE false

--- pg_catalog.pg_sequence
SELECT
    NULL::BIGINT AS seqrelid, NULL::INTEGER AS seqtypid, NULL::BIGINT AS seqstart, NULL::BIGINT AS seqincrement,
    NULL::BIGINT AS seqmax, NULL::BIGINT AS seqmin, NULL::INTEGER AS seqcache, NULL::BOOLEAN AS seqcycle
WHERE false

--- pg_catalog.pg_sequences
SELECT
    NULL::VARCHAR AS schemaname, NULL::VARCHAR AS sequencename, NULL::VARCHAR AS sequenceowner, NULL::INTEGER AS data_type,
    NULL::BIGINT AS start_value, NULL::BIGINT AS min_value, NULL::BIGINT AS max_value, NULL::BIGINT AS increment_by,
    NULL::BOOLEAN AS cycle, NULL::INTEGER AS cache_size, NULL::BIGINT AS last_value
WHERE false

--- pg_catalog.pg_views
SELECT
    NULL::VARCHAR AS schemaname, NULL::VARCHAR AS viewname, NULL::VARCHAR AS viewowner, NULL::VARCHAR AS definition
WHERE false

--- function format_type(type_oid, typemod)
(SELECT name || CASE WHEN typemod > 0 AND oid = 1700 THEN concat('(', typemod // 1000, ',', typemod % 1000, ')') ELSE '' END
    FROM {types} WHERE oid = type_oid)

--- function current_schemas(include_implicit)
CASE WHEN include_implicit THEN [{schema}, 'pg_catalog'] ELSE [{schema}] END

--- function pg_get_userbyid(role_oid)
'duckdb'

--- function pg_get_viewdef(view_oid, pretty := false)
CAST(NULL AS VARCHAR)

--- function pg_get_constraintdef(constraint_oid, pretty := false)
CAST(NULL AS VARCHAR)

--- function pg_get_indexdef(index_oid, number := 0, pretty := false)
CAST(NULL AS VARCHAR)

--- function pg_get_expr(tree, relation, pretty := false)
CAST(tree AS VARCHAR)

--- function obj_description(object_oid, catalog := '')
CAST(NULL AS VARCHAR)

--- function col_description(table_oid, number)
CAST(NULL AS VARCHAR)

--- function shobj_description(object_oid, catalog)
CAST(NULL AS VARCHAR)

--- function pg_encoding_to_char(encoding)
'UTF8'

--- function pg_relation_size(relation)
CAST(NULL AS BIGINT)

--- function pg_total_relation_size(relation)
CAST(NULL AS BIGINT)

--- function quote_ident(name)
concat('"', replace(name, '"', '""'), '"')
