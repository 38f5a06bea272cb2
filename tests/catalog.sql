-- What catalog.py reads: each query gives the kind and the name of its objects, then their facts. An empty line separates the
-- statements; the first three define what the queries share.

-- The schema in which the Supabase CLI records what it has applied differs by nature.
create or replace temporary view ours as
    select oid, nspname, nspowner, nspacl from pg_catalog.pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'supabase_migrations');

-- Rights in an order of their own. Where none were ever granted, PostgreSQL's defaults for the kind of object apply.
create or replace function pg_temp.rights(acl aclitem[], kind "char", owner oid) returns text language sql as $$
    select string_agg(
        case when a.grantee = 0 then 'public' else a.grantee::regrole::text end || '=' || a.privilege_type
            || case when a.is_grantable then '*' else '' end,
        ' ' order by a.grantee::regrole::text, a.privilege_type, a.is_grantable)
    from aclexplode(coalesce(acl, acldefault(kind, owner))) a
$$;

create or replace function pg_temp.label(oid, name) returns text language sql as $$
    select $1::regclass::text || ' ' || quote_ident($2)
$$;

select 'schema', n.nspname, n.nspowner::regrole as owner, pg_temp.rights(n.nspacl, 'n', n.nspowner) as rights,
    obj_description(n.oid, 'pg_namespace') as comment
from pg_temp.ours n;

select 'extension', e.extname, e.extnamespace::regnamespace as schema, e.extversion as version
from pg_extension e;

select case t.typtype when 'e' then 'enum' when 'd' then 'domain' else 'range' end, t.oid::regtype::text,
    (select string_agg(quote_literal(l.enumlabel), ', ' order by l.enumsortorder)
        from pg_enum l where l.enumtypid = t.oid) as labels,
    format_type(t.typbasetype, t.typtypmod) as base, t.typnotnull as not_null, t.typdefault as default,
    t.typowner::regrole as owner, pg_temp.rights(t.typacl, 'T', t.typowner) as rights,
    obj_description(t.oid, 'pg_type') as comment
from pg_type t join pg_temp.ours n on n.oid = t.typnamespace
where t.typtype in ('e', 'd', 'r');

select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'c' then 'composite type' else 'table' end,
    c.oid::regclass::text, c.relkind as kind, c.relpersistence as persistence, c.reloptions as options,
    c.relrowsecurity as row_security, c.relforcerowsecurity as row_security_of_owner, c.relreplident as replica_identity,
    case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end as query,
    c.relowner::regrole as owner, pg_temp.rights(c.relacl, 'r', c.relowner) as rights,
    obj_description(c.oid, 'pg_class') as comment
from pg_class c join pg_temp.ours n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f', 'c');

select 'sequence', c.oid::regclass::text, q.seqtypid::regtype as type, q.seqstart as start, q.seqincrement as increment,
    q.seqmin as min, q.seqmax as max, q.seqcache as cache, q.seqcycle as cycle,
    (select pg_temp.label(a.attrelid, a.attname)
        from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
            and d.deptype in ('a', 'i')) as owned_by,
    c.relowner::regrole as owner, pg_temp.rights(c.relacl, 's', c.relowner) as rights,
    obj_description(c.oid, 'pg_class') as comment
from pg_sequence q join pg_class c on c.oid = q.seqrelid join pg_temp.ours n on n.oid = c.relnamespace;

select 'column', pg_temp.label(c.oid, a.attname), row_number() over (partition by c.oid order by a.attnum) as place,
    format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as not_null, pg_get_expr(d.adbin, d.adrelid) as default,
    a.attgenerated as generated, a.attidentity as identity, a.attcollation::regcollation as collation,
    a.attstorage as storage, a.attcompression as compression,
    pg_temp.rights(a.attacl, 'c', c.relowner) as rights, col_description(c.oid, a.attnum) as comment
from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_temp.ours n on n.oid = c.relnamespace
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c');

select 'constraint', case k.conrelid when 0 then k.contypid::regtype::text else k.conrelid::regclass::text end
        || ' ' || quote_ident(k.conname),
    pg_get_constraintdef(k.oid) as definition, obj_description(k.oid, 'pg_constraint') as comment
from pg_constraint k join pg_temp.ours n on n.oid = k.connamespace;

select 'index', c.oid::regclass::text, pg_get_indexdef(c.oid) as definition, i.indisvalid as valid, i.indisclustered as clustered,
    i.indisreplident as replica_identity, obj_description(c.oid, 'pg_class') as comment
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_temp.ours n on n.oid = c.relnamespace;

select 'trigger', pg_temp.label(g.tgrelid, g.tgname), pg_get_triggerdef(g.oid) as definition, g.tgenabled as enabled,
    obj_description(g.oid, 'pg_trigger') as comment
from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_temp.ours n on n.oid = c.relnamespace
where not g.tgisinternal;

select 'policy', pg_temp.label(p.polrelid, p.polname), p.polcmd as command, p.polpermissive as permissive,
    (select string_agg(case r when 0 then 'public' else r::regrole::text end, ' ' order by r::regrole::text)
        from unnest(p.polroles) as r) as roles,
    pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as with_check,
    obj_description(p.oid, 'pg_policy') as comment
from pg_policy p join pg_class c on c.oid = p.polrelid join pg_temp.ours n on n.oid = c.relnamespace;

select 'function', p.oid::regprocedure::text, p.prokind as kind, pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result, l.lanname as language, p.provolatile as volatility,
    p.prosecdef as security_definer, p.proisstrict as strict, p.proleakproof as leakproof, p.proparallel as parallel,
    p.procost as cost, p.prorows as rows, p.proconfig as settings, p.prosrc as source,
    pg_get_function_sqlbody(p.oid) as body, p.proowner::regrole as owner,
    pg_temp.rights(p.proacl, 'f', p.proowner) as rights, obj_description(p.oid, 'pg_proc') as comment
from pg_proc p join pg_temp.ours n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang;

select 'default rights', concat_ws(' ', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace, d.defaclobjtype),
    pg_temp.rights(d.defaclacl, 'r', d.defaclrole) as rights
from pg_default_acl d;

select 'publication', p.pubname, p.pubowner::regrole as owner, p.puballtables as all_tables,
    (select string_agg(quote_ident(t.schemaname) || '.' || quote_ident(t.tablename), ' ' order by t.schemaname, t.tablename)
        from pg_publication_tables t where t.pubname = p.pubname) as tables
from pg_publication p;

select 'event trigger', e.evtname, e.evtevent as event, e.evtfoid::regprocedure as function, e.evtenabled as enabled
from pg_event_trigger e;

select 'rule', pg_temp.label(r.ev_class, r.rulename), pg_get_ruledef(r.oid) as definition
from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_temp.ours n on n.oid = c.relnamespace
where r.rulename <> '_RETURN';
