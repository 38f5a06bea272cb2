-- The first migration: what supabase/schemas/ declared when this project got its first users, without the comments. Functions
-- are read there, in their present form; each later change is a migration of its own.

-- 10_tables.sql

create type public.task_status as enum ('pending', 'running', 'completed', 'failed', 'cancelled');

create type public.run_status as enum ('queued', 'running', 'completed', 'failed', 'cancelled');

create table public.users (
    id uuid primary key constraint users_id_fkey references auth.users (id) on delete cascade,
    email text,
    full_name text,
    avatar_url text,
    github_username text,
    -- The frontend's generated types have this column. Users may select it, because Supabase's clients send `select *`, which
    -- one forbidden column would refuse as a whole. So it must stay empty: a token in a readable row is a lost token.
    github_token text constraint users_github_token_check check (github_token is null),
    -- Reaches the environment of the user's agents, so its size is bounded.
    preferences jsonb default '{}'::jsonb constraint users_preferences_check check (
        preferences is null or (jsonb_typeof(preferences) = 'object' and octet_length(preferences::text) <= 131072)),
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    is_test_user boolean default false,
    expires_at timestamptz
);
create index idx_users_test_user on public.users (is_test_user) where is_test_user;
create index idx_users_expires_at on public.users (expires_at) where expires_at is not null;

create table public.projects (
    id bigserial primary key,
    user_id uuid not null constraint projects_user_id_fkey references public.users (id) on delete cascade,
    repo_url text not null,
    repo_name text not null,
    repo_owner text not null,
    name text not null,
    description text,
    is_active boolean default true,
    settings jsonb default '{}'::jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    is_test_data boolean default false,
    constraint projects_user_id_repo_url_key unique (user_id, repo_url)
);
create index idx_projects_user_id on public.projects (user_id, created_at desc);
create unique index projects_user_id_repository_key on public.projects (
    user_id, lower(repo_owner), lower(repo_name),
    lower(coalesce(substring(repo_url from 'git@([^:/]+):'), substring(repo_url from '://([^/]+)/'))));

create table public.tasks (
    id bigserial primary key,
    user_id uuid not null constraint tasks_user_id_fkey references public.users (id) on delete cascade,
    project_id bigint constraint tasks_project_id_fkey references public.projects (id) on delete cascade,
    status public.task_status default 'pending',
    agent text default 'claude' constraint tasks_agent_check check (agent in ('claude', 'codex')),
    repo_url text,
    target_branch text default 'main',
    pr_branch text,
    container_id text,
    commit_hash text,
    pr_number integer,
    pr_url text,
    git_diff text,
    git_patch text,
    changed_files jsonb default '[]'::jsonb,
    error text,
    chat_messages jsonb default '[]'::jsonb,
    execution_metadata jsonb default '{}'::jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    started_at timestamptz,
    completed_at timestamptz,
    is_test_data boolean default false,
    -- For lists, which must not read megabytes of patch to know that there is one.
    has_patch boolean generated always as (coalesce(git_patch, '') <> '') stored
);
create index idx_tasks_status on public.tasks (status);
create index idx_tasks_user_id on public.tasks (user_id, created_at desc, id desc) include (project_id, status);
create index idx_tasks_project_id on public.tasks (project_id, created_at desc, id desc) include (user_id, status);

create table public.run_limits (
    only_row boolean primary key default true constraint run_limits_only_row_check check (only_row),
    active_per_user integer not null default 50 constraint run_limits_active_check check (active_per_user > 0),
    running_per_user integer not null default 10 constraint run_limits_running_check check (running_per_user > 0),
    running_in_all integer not null default 100 constraint run_limits_all_check check (running_in_all > 0),
    started_per_hour integer not null default 100 constraint run_limits_started_check check (started_per_hour > 0),
    started_per_second integer not null default 5
        constraint run_limits_started_per_second_check check (started_per_second > 0),
    max_duration_s integer not null default 86400
        constraint run_limits_max_duration_check check (max_duration_s between 30 and 86400)
);
comment on column public.run_limits.active_per_user is 'queued and running runs of one user; more are refused (PT429)';
comment on column public.run_limits.running_per_user is 'sandboxes of one user at a time; more wait in the queue';
comment on column public.run_limits.running_in_all is 'sandboxes at a time; keep it below the E2B plan''s limit (20 Hobby, 100 Pro)';
comment on column public.run_limits.started_per_hour is 'runs that one user may start within an hour; more are refused (PT429)';
comment on column public.run_limits.started_per_second is
    'sandboxes started within any second; keep it at the E2B plan''s limit (1 Hobby, 5 Pro)';
comment on column public.run_limits.max_duration_s is
    'the longest that a run may be given; keep it at what the E2B plan lets a sandbox live (3600 Hobby, 86400 Pro)';
insert into public.run_limits default values;

create table public.run_starts (
    user_id uuid not null constraint run_starts_user_id_fkey references public.users (id) on delete cascade,
    at timestamptz not null default now()
);
create index idx_run_starts_user_id on public.run_starts (user_id, at desc);

create table public.user_credentials (
    id uuid primary key,
    user_id uuid not null constraint user_credentials_user_id_fkey references public.users (id) on delete cascade,
    kind text not null constraint user_credentials_kind_check check (kind in ('git_token')),
    -- Base64. Sealed with user_id, kind and id as additional data: a row that is copied to another user cannot be opened.
    ciphertext text not null constraint user_credentials_size_check check (length(ciphertext) between 1 and 20000),
    key_id text not null,
    alg text not null,
    hint text,
    expires_at timestamptz not null,
    created_at timestamptz not null default now()
);
create index idx_user_credentials_user_id on public.user_credentials (user_id);
create index idx_user_credentials_expires_at on public.user_credentials (expires_at);

create table public.runs (
    id uuid primary key default gen_random_uuid(),
    task_id bigint not null constraint runs_task_id_fkey references public.tasks (id) on delete cascade,
    user_id uuid not null constraint runs_user_id_fkey references public.users (id) on delete cascade,
    kind text not null default 'first' constraint runs_kind_check check (kind in ('first', 'follow_up', 'retry')),
    prompt text not null constraint runs_prompt_check check (length(prompt) between 1 and 100000),
    agent text not null constraint runs_agent_check check (agent in ('claude', 'codex')),
    model text,
    status public.run_status not null default 'queued',
    phase text not null default 'queued' constraint runs_phase_check
        check (phase in ('queued', 'provisioning', 'cloning', 'setup', 'agent', 'collecting', 'done')),
    seq integer not null default 0,           -- the next step; a message for another step is stale
    fence integer not null default 0,         -- grows with each claim; a write that names an older one is refused
    lease_until timestamptz,                  -- set while a worker holds the run; expires when the worker died
    next_check_at timestamptz not null default now(),  -- 'infinity' while a queued run sleeps
    deadline_at timestamptz,
    attempt integer not null default 0,       -- claims since the last saved step: bounds retries and crashes
    cancel_requested_at timestamptz,
    sandbox_id text,
    agent_session_id text,
    base_commit text,
    output_offset bigint not null default 0,  -- bytes of the agent's output that are already events
    reader_state jsonb not null default '{}'::jsonb,
    exit_code integer,
    error_code text,
    error text,
    usage jsonb not null default '{}'::jsonb,
    git_credential_id uuid constraint runs_git_credential_id_fkey references public.user_credentials (id) on delete set null,
    idempotency_key text constraint runs_idempotency_key_check check (length(idempotency_key) between 1 and 255),
    trace_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    request_hash text,
    kept_until timestamptz,
    max_cost_usd numeric constraint runs_max_cost_usd_check check (max_cost_usd > 0 and max_cost_usd < 1000000),
    asked_at timestamptz,
    checkpoint jsonb not null default '{}'::jsonb,
    max_duration_s integer constraint runs_max_duration_check check (max_duration_s between 30 and 86400),
    constraint runs_user_id_idempotency_key_key unique (user_id, idempotency_key)
);
comment on column public.runs.request_hash is 'the request under the idempotency key; another request under it is refused (PT409)';
comment on column public.runs.kept_until is 'its sandbox is kept, paused, until then, unless the next run takes it over first';
comment on column public.runs.max_cost_usd is
    'the limit that its user set; the executor also applies the limit of the deployment';
comment on column public.runs.asked_at is 'when it first asked for a sandbox; before that it has no place in the line';
comment on column public.runs.checkpoint is
    'number of the last one, begun_s, running; tree, saved_s and files of the last one that was saved. Seconds of the run''s age';
comment on column public.runs.max_duration_s is 'from admission to its deadline, as its user chose; null: RUN_TIMEOUT_S';
create unique index runs_one_active_per_task on public.runs (task_id) where status in ('queued', 'running');
create index idx_runs_task_id on public.runs (task_id, created_at desc);
create index idx_runs_user_id on public.runs (user_id, status);
create index idx_runs_git_credential_id on public.runs (git_credential_id);
create index idx_runs_sandbox_id on public.runs (sandbox_id) where sandbox_id is not null;
create index idx_runs_started_at on public.runs (started_at);
create index idx_runs_due on public.runs (next_check_at) where status in ('queued', 'running');
create index idx_runs_queued on public.runs (created_at, id) where status = 'queued';
create index idx_runs_line on public.runs (user_id, created_at, id) where status = 'queued' and asked_at is not null;
create index idx_runs_running on public.runs (user_id) where status = 'running';

create table public.task_events (
    task_id bigint not null constraint task_events_task_id_fkey references public.tasks (id) on delete cascade,
    seq bigint not null,
    run_id uuid not null constraint task_events_run_id_fkey references public.runs (id) on delete cascade,
    kind text not null,
    payload jsonb not null default '{}'::jsonb,
    at timestamptz not null default now(),
    constraint task_events_pkey primary key (task_id, seq)
);
create index idx_task_events_run_id on public.task_events (run_id);

create table public.task_files (
    run_id uuid not null constraint task_files_run_id_fkey references public.runs (id) on delete cascade,
    task_id bigint not null constraint task_files_task_id_fkey references public.tasks (id) on delete cascade,
    path text not null,
    previous_path text,
    status text not null constraint task_files_status_check
        check (status in ('added', 'modified', 'deleted', 'renamed', 'type_changed')),
    mode text,
    before text,
    after text,
    -- 'apart': the contents are too large for this row. `before` and `after` are then ids in task_contents.
    encoding text not null default 'utf-8'
        constraint task_files_encoding_check check (encoding in ('utf-8', 'base64', 'apart')),
    size bigint not null default 0,
    truncated boolean not null default false,
    constraint task_files_pkey primary key (run_id, path)
);
create index idx_task_files_task_id on public.task_files (task_id);

create table public.task_contents (
    run_id uuid not null constraint task_contents_run_id_fkey references public.runs (id) on delete cascade,
    id text not null constraint task_contents_id_check check (id ~ '^[0-9a-f]{40}([0-9a-f]{24})?$'),
    part integer not null,
    parts integer not null,
    data bytea not null constraint task_contents_size_check check (octet_length(data) <= 1048576),
    constraint task_contents_pkey primary key (run_id, id, part),
    constraint task_contents_part_check check (part >= 0 and part < parts and parts <= 100)
);

create table public.spending (
    run_id uuid primary key,
    user_id uuid not null constraint spending_user_id_fkey references public.users (id) on delete cascade,
    task_id bigint not null,
    project_id bigint,
    at timestamptz not null default now(),
    agent text not null,
    model text,
    cost_usd numeric,                         -- null: the price of the model is unknown
    input_tokens bigint not null default 0,   -- without those read from or written to the cache
    cached_input_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    output_tokens bigint not null default 0
);
create index idx_spending_user_id on public.spending (user_id, at desc);

create table public.api_keys (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null constraint api_keys_user_id_fkey references public.users (id) on delete cascade,
    name text not null constraint api_keys_name_check check (length(name) between 1 and 100),
    key_hash text not null constraint api_keys_key_hash_key unique
        constraint api_keys_key_hash_check check (key_hash ~ '^[0-9a-f]{64}$'),
    hint text not null,                       -- the last characters of the key, for a person to recognise it by
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz                  -- at most a minute old
);
create index idx_api_keys_user_id on public.api_keys (user_id, created_at desc);

create function public.update_updated_at_column() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.updated_at := now();
    return new;
end $$;

create trigger update_users_updated_at before update on public.users
    for each row execute function public.update_updated_at_column();
create trigger update_projects_updated_at before update on public.projects
    for each row execute function public.update_updated_at_column();
create trigger update_tasks_updated_at before update on public.tasks
    for each row execute function public.update_updated_at_column();
create trigger update_runs_updated_at before update on public.runs
    for each row execute function public.update_updated_at_column();

revoke all on function public.update_updated_at_column from public, anon, authenticated;

-- 20_rights.sql

alter table public.users enable row level security;
alter table public.projects enable row level security;
alter table public.tasks enable row level security;
alter table public.run_limits enable row level security;
alter table public.run_starts enable row level security;
alter table public.user_credentials enable row level security;
alter table public.runs enable row level security;
alter table public.task_events enable row level security;
alter table public.task_files enable row level security;
alter table public.task_contents enable row level security;
alter table public.spending enable row level security;
alter table public.api_keys enable row level security;

create policy "Users can view own profile" on public.users for select to authenticated
    using ((select auth.uid()) = id);
create policy "Users can update own profile" on public.users for update to authenticated
    using ((select auth.uid()) = id) with check ((select auth.uid()) = id);

create policy "Users can view own projects" on public.projects for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can insert own projects" on public.projects for insert to authenticated
    with check ((select auth.uid()) = user_id);
create policy "Users can update own projects" on public.projects for update to authenticated
    using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "Users can delete own projects" on public.projects for delete to authenticated
    using ((select auth.uid()) = user_id);

create policy "Users can view own tasks" on public.tasks for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can view own runs" on public.runs for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can view events of own tasks" on public.task_events for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));
create policy "Users can view files of own tasks" on public.task_files for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));
create policy "Users can view contents of own runs" on public.task_contents for select to authenticated
    using (exists (select 1 from public.runs r where r.id = run_id and r.user_id = (select auth.uid())));

create policy "Users can view own spending" on public.spending for select to authenticated
    using ((select auth.uid()) = user_id);

create policy "Users can view own api keys" on public.api_keys for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can revoke own api keys" on public.api_keys for delete to authenticated
    using ((select auth.uid()) = user_id);

revoke all on
    public.users, public.projects, public.tasks, public.run_limits, public.run_starts, public.user_credentials, public.runs,
    public.task_events, public.task_files, public.task_contents, public.spending, public.api_keys
    from anon, authenticated;

grant all on
    public.users, public.projects, public.tasks, public.run_limits, public.run_starts, public.user_credentials, public.runs,
    public.task_events, public.task_files, public.task_contents, public.spending, public.api_keys
    to service_role;

grant select on public.tasks, public.runs, public.task_events, public.task_files, public.task_contents, public.spending
    to authenticated;

grant select (id, email, full_name, avatar_url, github_username, github_token, preferences, created_at, updated_at,
        is_test_user, expires_at),
    update (full_name, avatar_url, github_username, preferences) on public.users to authenticated;
grant select, delete,
    insert (user_id, repo_url, repo_name, repo_owner, name, description, is_active, settings),
    update (repo_url, repo_name, repo_owner, name, description, is_active, settings) on public.projects to authenticated;
grant usage on sequence public.projects_id_seq to authenticated;
grant select (id, user_id, name, hint, created_at, expires_at, last_used_at), delete on public.api_keys to authenticated;

-- 25_log.sql

create function public.append_events(p_task_id bigint, p_run_id uuid, p_events jsonb) returns void
language sql set search_path = '' as $$
    insert into public.task_events (task_id, seq, run_id, kind, payload)
    select p_task_id, last.seq + e.n, p_run_id, e.event ->> 'kind', coalesce(e.event -> 'payload', '{}'::jsonb)
    from jsonb_array_elements(coalesce(p_events, '[]'::jsonb)) with ordinality as e (event, n),
        (select coalesce(max(seq), 0) as seq from public.task_events where task_id = p_task_id) as last
$$;

create function public.chat_message(p_role text, p_content text) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'role', p_role, 'content', p_content,
        'timestamp', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'))
$$;

create function public.append_chat_message(p_task_id bigint, p_role text, p_content text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
begin
    if p_role not in ('user', 'assistant') or coalesce(p_content, '') = '' or length(p_content) > 100000 then
        raise sqlstate 'PT400' using message = 'bad_chat_message';
    end if;
    update public.tasks set chat_messages = coalesce(chat_messages, '[]'::jsonb)
        || jsonb_build_array(public.chat_message(p_role, p_content))
    where id = p_task_id and user_id = v_user and octet_length(coalesce(chat_messages, '[]'::jsonb)::text) < 2000000;
    if found then
        return;
    elsif exists (select 1 from public.tasks where id = p_task_id and user_id = v_user) then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    raise sqlstate 'PT404' using message = 'task_not_found';
end $$;

revoke all on function public.append_events, public.chat_message, public.append_chat_message
    from public, anon, authenticated;
grant execute on function public.append_chat_message to authenticated;
grant execute on function public.append_events, public.chat_message to service_role;

-- 30_start.sql

create function public.admit_start(p_user uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_limits public.run_limits;
    v_active integer;
    v_started integer;
    v_free_at timestamptz;
begin
    select * into strict v_limits from public.run_limits;
    select count(*) into v_active from public.runs r where r.user_id = p_user and r.status in ('queued', 'running');
    if v_active >= v_limits.active_per_user then
        raise sqlstate 'PT429' using message = 'too_many_active_runs', detail = jsonb_build_object(
            'limit', v_limits.active_per_user, 'current', v_active, 'retry_after_s', 30)::text;
    end if;
    delete from public.run_starts s where s.user_id = p_user and s.at <= now() - interval '1 hour';
    select count(*) into v_started from public.run_starts s where s.user_id = p_user;
    if v_started >= v_limits.started_per_hour then
        -- The next one is free when the oldest of the last `started_per_hour` starts is an hour old.
        select s.at + interval '1 hour' into v_free_at from public.run_starts s where s.user_id = p_user
        order by s.at desc offset v_limits.started_per_hour - 1 limit 1;
        raise sqlstate 'PT429' using message = 'too_many_starts', detail = jsonb_build_object(
            'limit', v_limits.started_per_hour, 'current', v_started,
            'retry_after_s', greatest(1, ceil(extract(epoch from v_free_at - now()))::integer))::text;
    end if;
    insert into public.run_starts (user_id) values (p_user);
end $$;

create function public.insert_run(
    p_task_id bigint, p_kind text, p_prompt text, p_agent text, p_model text,
    p_credential jsonb, p_idempotency_key text, p_trace_id text
) returns public.runs
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_run public.runs;
begin
    -- Serialises the starts of one user: two concurrent ones cannot both pass the limits.
    perform pg_advisory_xact_lock(hashtextextended('runs of ' || v_user, 0));
    perform public.admit_start(v_user);
    if p_credential is not null then
        insert into public.user_credentials (id, user_id, kind, ciphertext, key_id, alg, hint, expires_at)
        values (
            (p_credential ->> 'id')::uuid, v_user, p_credential ->> 'kind', p_credential ->> 'ciphertext',
            p_credential ->> 'key_id', p_credential ->> 'alg', p_credential ->> 'hint', now() + interval '2 days');
    end if;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, git_credential_id, idempotency_key, trace_id)
    values (
        p_task_id, v_user, p_kind, p_prompt, p_agent, p_model,
        (p_credential ->> 'id')::uuid, p_idempotency_key, p_trace_id)
    returning * into v_run;
    perform public.append_events(p_task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return v_run;
end $$;

create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null, p_max_cost_usd numeric default null, p_max_duration_s integer default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_max_duration_s integer := (select max_duration_s from public.run_limits);
    v_task public.tasks;
    v_run public.runs;
begin
    if p_max_duration_s > v_max_duration_s then
        raise sqlstate 'PT400' using
            message = 'max_duration_too_long', detail = jsonb_build_object('limit', v_max_duration_s)::text;
    end if;
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_project_id is not null
        and not exists (select 1 from public.projects p where p.id = p_project_id and p.user_id = v_user) then
        raise sqlstate 'PT404' using message = 'project_not_found';
    end if;
    insert into public.tasks (user_id, project_id, repo_url, target_branch, agent, chat_messages)
    values (
        v_user, p_project_id, p_repo_url, p_branch, p_agent,
        jsonb_build_array(public.chat_message('user', p_prompt)))
    returning * into v_task;
    v_run := public.insert_run(
        v_task.id, 'first', p_prompt, p_agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    update public.runs set
        request_hash = p_request_hash, max_cost_usd = p_max_cost_usd, max_duration_s = p_max_duration_s
    where id = v_run.id;
    return jsonb_build_object('task_id', v_task.id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

create function public.create_run(
    p_task_id bigint, p_kind text, p_prompt text default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_last public.runs;
    v_run public.runs;
    v_goes_on boolean := p_kind = 'follow_up';
begin
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
    end if;
    select * into v_task from public.tasks t where t.id = p_task_id and t.user_id = v_user for update;
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    if p_idempotency_key is not null then
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_kind not in ('follow_up', 'retry') or (v_goes_on and coalesce(p_prompt, '') = '') then
        raise sqlstate 'PT400' using message = 'bad_run_kind';
    end if;
    if exists (select 1 from public.runs r where r.task_id = p_task_id and r.status in ('queued', 'running')) then
        raise sqlstate 'PT409' using message = 'run_active';
    end if;
    if v_goes_on and octet_length(coalesce(v_task.chat_messages, '[]'::jsonb)::text) >= 2000000 then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    select * into v_last from public.runs r where r.task_id = p_task_id order by r.created_at desc limit 1;
    if not found and not v_goes_on then
        raise sqlstate 'PT409' using message = 'nothing_to_retry';
    end if;
    update public.tasks set
        status = 'pending', error = null, completed_at = null,
        chat_messages = case when v_goes_on
            then coalesce(chat_messages, '[]'::jsonb) || jsonb_build_array(public.chat_message('user', p_prompt))
            else chat_messages end
    where id = p_task_id;
    v_run := public.insert_run(
        p_task_id, p_kind, case when v_goes_on then p_prompt else v_last.prompt end, v_task.agent,
        coalesce(p_model, v_last.model), p_credential, p_idempotency_key, p_trace_id);
    update public.runs set
        request_hash = p_request_hash,
        base_commit = case when v_goes_on then v_task.execution_metadata ->> 'base_commit' end
    where id = v_run.id;
    if v_last.kept_until > now() then
        update public.runs set
            sandbox_id = v_last.sandbox_id,
            agent_session_id = case when v_goes_on then v_last.agent_session_id end,
            reader_state = case when v_goes_on then v_last.reader_state else '{}'::jsonb end
        where id = v_run.id;
        update public.runs set kept_until = null where id = v_last.id;
    end if;
    return jsonb_build_object('task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

create function public.inherit_max_cost() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.max_cost_usd := (
        select r.max_cost_usd from public.runs r where r.task_id = new.task_id order by r.created_at desc limit 1);
    return new;
end $$;

create trigger inherit_max_cost before insert on public.runs for each row
    when (new.max_cost_usd is null and new.kind <> 'first')
    execute function public.inherit_max_cost();

create function public.inherit_max_duration() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.max_duration_s := (
        select r.max_duration_s from public.runs r where r.task_id = new.task_id order by r.created_at desc limit 1);
    return new;
end $$;

create trigger inherit_max_duration before insert on public.runs for each row
    when (new.max_duration_s is null and new.kind <> 'first')
    execute function public.inherit_max_duration();

create function public.replay_run(p_run_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_dead public.runs;
    v_task public.tasks;
    v_run public.runs;
begin
    select t.* into v_task from public.tasks t join public.runs r on r.task_id = t.id where r.id = p_run_id for update of t;
    select * into v_dead from public.runs where id = p_run_id;
    if v_dead.status is distinct from 'failed' or v_dead.error_code is distinct from 'internal'
        or exists (select 1 from public.runs r where r.task_id = v_dead.task_id and r.created_at > v_dead.created_at) then
        return null;
    end if;
    update public.runs set git_credential_id = null where id = v_dead.id;
    update public.tasks set status = 'pending', error = null, completed_at = null where id = v_task.id;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, max_cost_usd, git_credential_id, trace_id, base_commit)
    values (
        v_dead.task_id, v_dead.user_id, case when v_dead.kind = 'follow_up' then 'follow_up' else 'retry' end,
        v_dead.prompt, v_dead.agent, v_dead.model, v_dead.max_cost_usd, v_dead.git_credential_id, v_dead.trace_id,
        case when v_dead.kind = 'follow_up' then v_task.execution_metadata ->> 'base_commit' end)
    returning * into v_run;
    perform public.append_events(v_run.task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return jsonb_build_object(
        'run_id', v_run.id, 'task_id', v_run.task_id, 'user_id', v_run.user_id, 'seq', v_run.seq,
        'trace_id', v_run.trace_id);
end $$;

revoke all on function
    public.admit_start, public.insert_run, public.create_task, public.create_run, public.inherit_max_cost,
    public.inherit_max_duration, public.replay_run
    from public, anon, authenticated;
grant execute on function public.create_task, public.create_run to authenticated;
grant execute on function public.replay_run to service_role;

-- 40_claim.sql

create function public.claimed_run(p_run public.runs) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object('outcome', 'claimed', 'run', to_jsonb(p_run) || jsonb_build_object(
        'repo_url', t.repo_url, 'branch', t.target_branch,
        'setup_script', p.settings ->> 'setup_script'))
    from public.tasks t left join public.projects p on p.id = t.project_id
    where t.id = p_run.task_id
$$;

create function public.next_to_start() returns table (run_id uuid, place integer)
language sql stable set search_path = '' as $$
    with busy as (
        select r.user_id, count(*) as sandboxes from public.runs r where r.status = 'running' group by r.user_id
    ), line as (
        select q.id, q.created_at,
            coalesce(b.sandboxes, 0) + row_number() over (partition by q.user_id order by q.created_at, q.id) as nth
        from public.runs q left join busy b on b.user_id = q.user_id
        where q.status = 'queued' and q.asked_at is not null and q.cancel_requested_at is null
    )
    select line.id, (row_number() over (order by nth, created_at, line.id))::integer
    from line, public.run_limits limits
    where nth <= limits.running_per_user
    order by nth, created_at, line.id
    limit (
        select greatest(0, l.running_in_all - (select count(*) from public.runs r where r.status = 'running'))
        from public.run_limits l)
$$;

create function public.claim_run(
    p_run_id uuid, p_seq integer, p_lease_s integer, p_run_timeout_s integer
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_per_second integer;
    v_place integer;
    v_wait integer;
    v_now timestamptz;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found then
        return jsonb_build_object('outcome', 'unknown');
    elsif v_run.status not in ('queued', 'running') then
        return jsonb_build_object('outcome', 'ended');
    elsif v_run.lease_until > now() and v_run.seq = p_seq then
        return jsonb_build_object(
            'outcome', 'busy', 'retry_in_s', ceil(extract(epoch from v_run.lease_until - now()))::integer + 1);
    elsif v_run.seq <> p_seq then
        if v_run.next_check_at <= now() and coalesce(v_run.lease_until, now()) <= now() then
            return jsonb_build_object('outcome', 'overdue', 'seq', v_run.seq);
        end if;
        return jsonb_build_object('outcome', 'stale');
    end if;

    if v_run.status = 'queued' and v_run.cancel_requested_at is null then
        perform pg_advisory_xact_lock(hashtextextended('admission', 2));
        v_now := clock_timestamp();  -- now() is from before the lock
        update public.runs set asked_at = coalesce(asked_at, v_now) where id = p_run_id;
        select n.place into v_place from public.next_to_start() n where n.run_id = p_run_id;
        if v_place is null then
            update public.runs set next_check_at = 'infinity' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting');
        end if;
        select started_per_second into strict v_per_second from public.run_limits;
        if (select count(*) from public.runs where started_at > v_now - interval '1 second') >= v_per_second then
            v_wait := 1 + (v_place - 1) / v_per_second;  -- the runs before it in the line need this long
            update public.runs set next_check_at = v_now + v_wait * interval '1 second' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting', 'retry_in_s', v_wait);
        end if;
        update public.runs set
            status = 'running', phase = 'provisioning', started_at = v_now,
            deadline_at = v_now + interval '1 second' * case
                when v_run.max_duration_s is null then p_run_timeout_s
                -- The limit may have been lowered since the task was started.
                else least(v_run.max_duration_s, greatest(
                    p_run_timeout_s, (select max_duration_s from public.run_limits))) end
        where id = p_run_id;
        update public.tasks set status = 'running', started_at = v_now where id = v_run.task_id;
        perform public.append_events(v_run.task_id, p_run_id, jsonb_build_array(
            jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'provisioning'))));
    end if;

    update public.runs set
        fence = fence + 1, attempt = attempt + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id returning * into v_run;
    return public.claimed_run(v_run);
end $$;

create function public.seize_run(p_run_id uuid, p_lease_s integer) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    update public.runs set fence = fence + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id and status in ('queued', 'running') returning * into v_run;
    if found then
        return public.claimed_run(v_run);
    end if;
    return jsonb_build_object(
        'outcome', case when exists (select 1 from public.runs where id = p_run_id) then 'ended' else 'unknown' end);
end $$;

create function public.wake_runs() returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language plpgsql set search_path = '' as $$
begin
    -- A claim that is about to put its run to sleep has finished before we look, or looks after us at the same free sandbox.
    perform pg_advisory_xact_lock(hashtextextended('admission', 2));
    return query
        update public.runs r set next_check_at = now()
        from (
            select q.id from public.runs q
            where q.status = 'queued' and q.next_check_at = 'infinity'
                and (q.cancel_requested_at is not null or q.id in (select n.run_id from public.next_to_start() n))
            for update skip locked  -- a claim holds its run's row while it waits for our lock
        ) woken
        where r.id = woken.id
        returning r.id, r.task_id, r.user_id, r.seq, r.trace_id;
end $$;

create function public.run_environment(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'preferences', u.preferences::text,
        'project_env', left((p.settings -> 'env')::text, 131072),
        'project_network', left((p.settings -> 'network')::text, 32768))
    from public.runs r
        join public.users u on u.id = r.user_id
        join public.tasks t on t.id = r.task_id
        left join public.projects p on p.id = t.project_id and p.user_id = r.user_id
    where r.id = p_run_id
$$;

revoke all on function
    public.claimed_run, public.next_to_start, public.claim_run, public.seize_run, public.wake_runs, public.run_environment
    from public, anon, authenticated;
grant execute on function
    public.claimed_run, public.next_to_start, public.claim_run, public.seize_run, public.wake_runs, public.run_environment
    to service_role;

-- 50_step.sql

create function public.advance_run(
    p_run_id uuid, p_fence integer, p_changes jsonb, p_events jsonb, p_check_in_s integer
) returns integer
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_new public.runs;
    v_unknown text;
begin
    select key into v_unknown from jsonb_object_keys(p_changes) as k (key)
    where key not in (
        'phase', 'attempt', 'sandbox_id', 'agent_session_id', 'base_commit', 'output_offset', 'reader_state', 'usage',
        'checkpoint', 'exit_code', 'error_code', 'error')
    limit 1;
    if found then
        raise sqlstate 'PT400' using message = 'unknown_column', detail = v_unknown;
    end if;
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return null;
    end if;
    v_new := jsonb_populate_record(v_run, p_changes);
    update public.runs set
        phase = v_new.phase, attempt = v_new.attempt, sandbox_id = v_new.sandbox_id,
        agent_session_id = v_new.agent_session_id, base_commit = v_new.base_commit,
        output_offset = v_new.output_offset, reader_state = v_new.reader_state, usage = v_new.usage,
        checkpoint = v_new.checkpoint,
        exit_code = v_new.exit_code, error_code = v_new.error_code, error = v_new.error,
        seq = seq + 1, lease_until = null, next_check_at = now() + p_check_in_s * interval '1 second'
    where id = p_run_id returning * into v_new;
    if v_new.sandbox_id is distinct from v_run.sandbox_id then
        update public.tasks set container_id = v_new.sandbox_id where id = v_run.task_id;
    end if;
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return v_new.seq;
end $$;

create function public.store_result(p_run public.runs, p_result jsonb, p_files jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    update public.tasks set
        commit_hash = case when p_result ? 'commit_hash' then p_result ->> 'commit_hash' else commit_hash end,
        git_diff = case when p_result ? 'git_diff' then p_result ->> 'git_diff' else git_diff end,
        git_patch = case when p_result ? 'git_patch' then p_result ->> 'git_patch' else git_patch end,
        changed_files = coalesce(p_result -> 'changed_files', changed_files),
        execution_metadata = execution_metadata || coalesce(p_result -> 'execution_metadata', '{}'::jsonb)
    where id = p_run.task_id;
    delete from public.task_files where run_id = p_run.id;
    insert into public.task_files (
        run_id, task_id, path, previous_path, status, mode, before, after, encoding, size, truncated)
    select p_run.id, p_run.task_id, f.path, f.previous_path, f.status, f.mode, f.before, f.after,
        coalesce(f.encoding, 'utf-8'), coalesce(f.size, 0), coalesce(f.truncated, false)
    from jsonb_populate_recordset(null::public.task_files, coalesce(p_files, '[]'::jsonb)) as f
    on conflict (run_id, path) do nothing;
end $$;

create function public.save_checkpoint(p_run_id uuid, p_fence integer, p_result jsonb, p_files jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status <> 'running' then
        return false;
    end if;
    perform public.store_result(v_run, p_result, p_files);
    return true;
end $$;

create function public.store_contents(p_run_id uuid, p_fence integer, p_parts jsonb) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform 1 from public.runs r
    where r.id = p_run_id and r.fence = p_fence and r.status in ('queued', 'running') for update;
    if not found then
        return false;
    end if;
    insert into public.task_contents (run_id, id, part, parts, data)
    select p_run_id, p.id, p.part, p.parts, decode(p.data, 'base64')
    from jsonb_to_recordset(p_parts) as p (id text, part integer, parts integer, data text)
    on conflict (run_id, id, part) do nothing;
    return true;
end $$;

create function public.stored_contents(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(whole.id), '[]'::jsonb)
    from (
        select c.id from public.task_contents c where c.run_id = p_run_id
        group by c.id having count(*) = max(c.parts)
    ) whole
$$;

revoke all on function
    public.advance_run, public.store_result, public.save_checkpoint, public.store_contents, public.stored_contents
    from public, anon, authenticated;
grant execute on function
    public.advance_run, public.store_result, public.save_checkpoint, public.store_contents, public.stored_contents
    to service_role;

-- 60_end.sql

create function public.request_cancel(p_task_id bigint) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs;
begin
    if not exists (select 1 from public.tasks t where t.id = p_task_id and t.user_id = auth.uid()) then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    update public.runs set cancel_requested_at = coalesce(cancel_requested_at, now())
    where task_id = p_task_id and user_id = auth.uid() and status in ('queued', 'running')
    returning * into v_run;
    if not found then
        raise sqlstate 'PT409' using message = 'task_ended';
    end if;
    return jsonb_build_object(
        'task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq,
        'at_work', coalesce(v_run.lease_until > now(), false));
end $$;

create function public.finish_run(
    p_run_id uuid, p_fence integer, p_status public.run_status, p_error_code text default null, p_error text default null,
    p_result jsonb default '{}', p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    if p_status not in ('completed', 'failed', 'cancelled') then
        raise sqlstate 'PT400' using message = 'not_a_final_status';
    end if;
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return false;
    end if;
    update public.runs set
        status = p_status, phase = 'done', error_code = p_error_code, error = p_error, finished_at = now(),
        seq = seq + 1, lease_until = null
    where id = p_run_id;
    update public.tasks set
        status = p_status::text::public.task_status, error = p_error, completed_at = now(),
        chat_messages = case when coalesce(p_message, '') = '' then chat_messages
            else chat_messages || jsonb_build_array(public.chat_message('assistant', p_message)) end
    where id = v_run.task_id;
    if coalesce(p_result, '{}'::jsonb) <> '{}'::jsonb then
        perform public.store_result(v_run, p_result, p_files);
    end if;
    delete from public.user_credentials
    where id = v_run.git_credential_id and p_error_code is distinct from 'internal';
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return true;
end $$;

create function public.finish_run_keeping_sandbox(
    p_keep_s integer, p_run_id uuid, p_fence integer, p_status public.run_status,
    p_error_code text default null, p_error text default null, p_result jsonb default '{}',
    p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not public.finish_run(
        p_run_id => p_run_id, p_fence => p_fence, p_status => p_status, p_error_code => p_error_code,
        p_error => p_error, p_result => p_result, p_files => p_files, p_message => p_message, p_events => p_events
    ) then
        return false;
    end if;
    update public.runs set kept_until = now() + p_keep_s * interval '1 second' where id = p_run_id;
    return true;
end $$;

create function public.drop_older_contents() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    delete from public.task_contents c using public.runs r
    where c.run_id = r.id and r.task_id = new.task_id and r.id <> new.id;
    return null;
end $$;

create trigger drop_older_contents after update of status on public.runs for each row
    when (old.status <> 'completed' and new.status = 'completed')
    execute function public.drop_older_contents();

create function public.spending_of(p_run public.runs) returns public.spending
language sql stable set search_path = '' as $$
    select p_run.id, p_run.user_id, p_run.task_id,
        (select t.project_id from public.tasks t where t.id = p_run.task_id),
        now(), p_run.agent, coalesce(p_run.usage ->> 'model', p_run.model),
        case when p_run.usage ? 'cost_usd' then (p_run.usage ->> 'cost_usd')::numeric else 0 end,
        coalesce((p_run.usage ->> 'input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cached_input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cache_write_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'output_tokens')::bigint, 0)
$$;

create function public.record_spending() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs := case when tg_op = 'DELETE' then old else new end;
begin
    -- When the run is deleted together with its user, no one remains who could ask.
    if exists (select 1 from public.users u where u.id = v_run.user_id) then
        insert into public.spending select (public.spending_of(v_run)).* on conflict (run_id) do nothing;
    end if;
    return v_run;
end $$;

create trigger record_spending_of_ended_run after update of status on public.runs for each row
    when (old.status in ('queued', 'running') and new.status not in ('queued', 'running'))
    execute function public.record_spending();
create trigger record_spending_of_deleted_run before delete on public.runs for each row
    when (old.status in ('queued', 'running'))
    execute function public.record_spending();

create function public.record_pull_request(p_task_id bigint, p_branch text, p_number integer, p_url text) returns void
language plpgsql security definer set search_path = '' as $$
begin
    -- The dashboard makes a link of it, so only a web address may be stored.
    if coalesce(p_number, 0) < 1 or coalesce(p_branch, '') = '' or length(p_branch) > 255 or length(p_url) > 500
        or coalesce(p_url, '') !~ '^https?://[^[:space:]"<>]+/pull/[0-9]+$' then
        raise sqlstate 'PT400' using message = 'bad_pull_request';
    end if;
    update public.tasks set pr_branch = p_branch, pr_number = p_number, pr_url = p_url
    where id = p_task_id and user_id = auth.uid();
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
end $$;

revoke all on function
    public.request_cancel, public.finish_run, public.finish_run_keeping_sandbox, public.drop_older_contents,
    public.spending_of, public.record_spending, public.record_pull_request
    from public, anon, authenticated;
grant execute on function public.request_cancel, public.spending_of, public.record_pull_request to authenticated;
grant execute on function public.finish_run, public.finish_run_keeping_sandbox, public.spending_of to service_role;

-- 70_reaper.sql

create function public.due_runs(p_grace_s integer, p_limit integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    from (
        select id from public.runs
        where status in ('queued', 'running')
            and next_check_at < now() - p_grace_s * interval '1 second'
            and (lease_until is null or lease_until < now())
        order by next_check_at limit p_limit for update skip locked
    ) due
    where r.id = due.id
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

create function public.needed_sandboxes(p_sandboxes jsonb) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(s.key), '[]'::jsonb)
    from jsonb_each_text(p_sandboxes) as s
    where exists (
            select 1 from public.runs r where r.id = s.value::uuid and r.status in ('queued', 'running'))
        or exists (
            select 1 from public.runs r
            where r.sandbox_id = s.key and (r.status in ('queued', 'running') or r.kept_until > now()))
$$;

create function public.runs_without_sandbox(p_sandboxes text[], p_grace_s integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    where r.status = 'running' and r.sandbox_id is not null and r.sandbox_id <> all (p_sandboxes)
        and (r.lease_until is null or r.lease_until < now())
        and r.updated_at < now() - p_grace_s * interval '1 second'
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

create function public.end_stuck(
    p_waited_s integer, p_waited_code text, p_waited_error text, p_orphaned_error text
) returns integer
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_ended integer := 0;
    v_orphans integer;
begin
    for v_run in
        select * from public.runs r
        where r.status = 'queued' and r.created_at < now() - p_waited_s * interval '1 second'
        order by r.created_at limit 500 for update skip locked
    loop
        perform public.finish_run(
            p_run_id => v_run.id, p_fence => v_run.fence, p_status => 'failed', p_error_code => p_waited_code,
            p_error => p_waited_error, p_events => jsonb_build_array(jsonb_build_object(
                'kind', 'ended', 'payload', jsonb_build_object(
                    'status', 'failed', 'error_code', p_waited_code, 'text', p_waited_error))));
        v_ended := v_ended + 1;
    end loop;
    update public.tasks t set status = 'failed', error = p_orphaned_error, completed_at = now()
    where t.status in ('pending', 'running') and t.updated_at < now() - p_waited_s * interval '1 second'
        and not exists (select 1 from public.runs r where r.task_id = t.id and r.status in ('queued', 'running'));
    get diagnostics v_orphans = row_count;
    return v_ended + v_orphans;
end $$;

create function public.expire_credentials() returns integer
language sql set search_path = '' as $$
    with gone as (
        delete from public.user_credentials c
        where c.expires_at < now()
            or exists (
                select 1 from public.runs r
                where r.git_credential_id = c.id and r.status not in ('queued', 'running')
                    and r.error_code is distinct from 'internal')
        returning 1)
    select count(*)::integer from gone
$$;

revoke all on function
    public.due_runs, public.needed_sandboxes, public.runs_without_sandbox, public.end_stuck, public.expire_credentials
    from public, anon, authenticated;
grant execute on function
    public.due_runs, public.needed_sandboxes, public.runs_without_sandbox, public.end_stuck, public.expire_credentials
    to service_role;

-- 80_reads.sql

create function public.list_tasks(
    p_limit integer, p_after_at timestamptz default null, p_after_id bigint default null,
    p_status public.task_status default null, p_project_id bigint default null, p_search text default null
) returns jsonb
language plpgsql stable set search_path = ''
set plan_cache_mode = force_custom_plan as $$
declare
    v_user uuid := auth.uid();
    v_limit integer := least(p_limit, 1000);
    v_search text := lower(p_search);
    v_answer jsonb;
begin
    with matching as not materialized (
        select * from public.tasks
        where user_id = v_user
            and (p_status is null or status = p_status)
            and (p_project_id is null or project_id = p_project_id)
            and (p_search is null or exists (
                select 1 from jsonb_array_elements(chat_messages) as m (message)
                where m.message ->> 'role' = 'user' and position(v_search in lower(m.message ->> 'content')) > 0))
    ), page as (
        select created_at, id, jsonb_build_object(
            'id', id, 'user_id', user_id, 'project_id', project_id, 'status', status, 'agent', agent,
            'repo_url', repo_url, 'target_branch', target_branch, 'pr_branch', pr_branch,
            'container_id', container_id, 'commit_hash', commit_hash, 'pr_number', pr_number, 'pr_url', pr_url,
            'git_diff', null, 'git_patch', null, 'changed_files', changed_files, 'error', error,
            'chat_messages', chat_messages, 'execution_metadata', '{}'::jsonb, 'created_at', created_at,
            'updated_at', updated_at, 'started_at', started_at, 'completed_at', completed_at,
            'is_test_data', is_test_data, 'has_patch', has_patch
        ) as task
        from matching
        where p_after_id is null or (created_at, id) < (p_after_at, p_after_id)
        order by created_at desc, id desc
        limit v_limit + 1
    ), numbered as (
        select task, row_number() over w as n, sum(octet_length(task::text)) over w as bytes
        from page
        window w as (order by created_at desc, id desc)
    )
    select jsonb_build_object(
        'tasks', coalesce(jsonb_agg(task order by n) filter (where fits), '[]'::jsonb),
        'more', coalesce(not bool_and(fits), false),
        'total', (select count(*) from matching)
    ) into v_answer
    from (select task, n, n = 1 or (n <= v_limit and bytes <= 6000000) as fits from numbered) as r;
    return v_answer;
end $$;

create function public.list_projects(p_id bigint default null) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(p) || to_jsonb(c) order by p.created_at desc, p.id desc), '[]'::jsonb)
    from public.projects p
    cross join lateral (
        select count(*) as task_count,
            count(*) filter (where t.status = 'completed') as completed_tasks,
            count(*) filter (where t.status in ('pending', 'running')) as active_tasks
        from public.tasks t where t.project_id = p.id and t.user_id = p.user_id
    ) c
    where p.user_id = (select auth.uid()) and (p_id is null or p.id = p_id)
$$;

create function public.run_progress(p_task_id bigint) returns jsonb
language sql stable security definer set search_path = '' as $$
    select coalesce((
        select jsonb_build_object(
            'run_id', r.id,
            'phase', case when r.status in ('queued', 'running') then r.phase end,
            'queue_position', case when r.status = 'queued' then (
                with busy as (
                    select b.user_id, count(*) as sandboxes from public.runs b where b.status = 'running' group by b.user_id
                ), line as (
                    select q.id, q.created_at,
                        coalesce(b.sandboxes, 0)
                            + row_number() over (partition by q.user_id order by q.created_at, q.id) as nth
                    from public.runs q left join busy b on b.user_id = q.user_id where q.status = 'queued'
                )
                select count(*) from line other, line own
                where own.id = r.id and (other.nth, other.created_at, other.id) < (own.nth, own.created_at, own.id)) end)
        from public.runs r where r.task_id = p_task_id and r.user_id = auth.uid()
        order by r.created_at desc limit 1
    ), '{"run_id": null, "phase": null, "queue_position": null}'::jsonb)
$$;

create function public.run_with_files(p_task_id bigint) returns uuid
language sql stable set search_path = '' as $$
    select r.id from public.runs r
    where r.task_id = p_task_id and r.user_id = (select auth.uid())
        and (r.status = 'completed' or exists (select 1 from public.task_files f where f.run_id = r.id))
    order by r.created_at desc limit 1
$$;

create function public.usage_totals(p_from timestamptz, p_to timestamptz default null, p_project_id bigint default null)
returns jsonb
language sql stable set search_path = '' as $$
    with spent as (
        select s.* from public.spending s
        where s.user_id = (select auth.uid()) and s.at >= p_from and (p_to is null or s.at < p_to)
        union all
        select a.*
        from public.runs r cross join lateral public.spending_of(r) as a
        where r.user_id = (select auth.uid()) and r.status in ('queued', 'running')
            and now() >= p_from and (p_to is null or now() < p_to)
    ), sums as (
        select s.agent, d.day, grouping(s.agent) = 0 as of_agent, grouping(d.day) = 0 as of_day,
            jsonb_build_object(
                'runs', count(*), 'unpriced_runs', count(*) filter (where s.cost_usd is null),
                'cost_usd', coalesce(sum(s.cost_usd), 0), 'input_tokens', coalesce(sum(s.input_tokens), 0),
                'cached_input_tokens', coalesce(sum(s.cached_input_tokens), 0),
                'cache_write_tokens', coalesce(sum(s.cache_write_tokens), 0),
                'output_tokens', coalesce(sum(s.output_tokens), 0)) as total
        from spent s cross join lateral (select (s.at at time zone 'utc')::date as day) d
        where p_project_id is null or s.project_id = p_project_id
        group by grouping sets ((), (s.agent), (d.day))
    )
    select (select total from sums where not of_agent and not of_day) || jsonb_build_object(
        'by_agent', coalesce((
            select jsonb_agg(jsonb_build_object('agent', agent) || total order by agent)
            from sums where of_agent), '[]'::jsonb),
        'by_day', coalesce((
            select jsonb_agg(jsonb_build_object('day', day) || total order by day)
            from sums where of_day), '[]'::jsonb))
$$;

revoke all on function
    public.list_tasks, public.list_projects, public.run_progress, public.run_with_files, public.usage_totals
    from public, anon, authenticated;
grant execute on function
    public.list_tasks, public.list_projects, public.run_progress, public.run_with_files, public.usage_totals
    to authenticated;

-- 90_accounts.sql

create function public.handle_new_user() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    is_test boolean := new.raw_app_meta_data ->> 'is_test_user' = 'true';
    ttl_hours numeric := case
        when new.raw_app_meta_data ->> 'ttl_hours' ~ '^[0-9]{1,4}(\.[0-9]{1,4})?$'
        then (new.raw_app_meta_data ->> 'ttl_hours')::numeric else 1 end;
begin
    insert into public.users (id, email, full_name, avatar_url, is_test_user, expires_at)
    values (
        new.id, new.email,
        new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'avatar_url',
        coalesce(is_test, false),
        case when is_test then now() + ttl_hours * interval '1 hour' end
    )
    on conflict (id) do nothing;
    return new;
end $$;

create trigger on_auth_user_created after insert on auth.users
    for each row execute function public.handle_new_user();

create function public.handle_user_update() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    update public.users set
        email = new.email,
        full_name = coalesce(new.raw_user_meta_data ->> 'full_name', full_name),
        avatar_url = coalesce(new.raw_user_meta_data ->> 'avatar_url', avatar_url),
        updated_at = now()
    where id = new.id;
    return new;
end $$;

create trigger on_auth_user_updated after update on auth.users
    for each row
    when (old.email is distinct from new.email or old.raw_user_meta_data is distinct from new.raw_user_meta_data)
    execute function public.handle_user_update();

create function public.is_test_user(user_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
    select coalesce((select u.is_test_user from public.users u where u.id = is_test_user.user_id), false)
$$;

create function public.mark_test_data() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    new.is_test_data := public.is_test_user(new.user_id);
    return new;
end $$;

create trigger mark_test_data_on_project before insert on public.projects
    for each row execute function public.mark_test_data();
create trigger mark_test_data_on_task before insert on public.tasks
    for each row execute function public.mark_test_data();

create function public.update_profile(p_changes jsonb) returns jsonb
language sql set search_path = '' as $$
    with changed as (
        update public.users u set
            full_name = case when p_changes ? 'full_name' then p_changes ->> 'full_name' else u.full_name end,
            avatar_url = case when p_changes ? 'avatar_url' then p_changes ->> 'avatar_url' else u.avatar_url end,
            github_username = case when p_changes ? 'github_username'
                then p_changes ->> 'github_username' else u.github_username end,
            preferences = case when not p_changes ? 'preferences' then u.preferences else (
                select coalesce(jsonb_object_agg(s.key, s.value), '{}'::jsonb)
                from jsonb_each(case when jsonb_typeof(u.preferences) = 'object' then u.preferences else '{}'::jsonb end
                    || nullif(p_changes -> 'preferences', 'null'::jsonb)) as s
                where s.value <> 'null'::jsonb) end
        where u.id = (select auth.uid())
        returning u.id, u.email, u.full_name, u.avatar_url, u.github_username, u.preferences, u.created_at, u.updated_at,
            u.is_test_user, u.expires_at)
    select to_jsonb(c) from changed c
$$;

create function public.has_live_session(p_user_agent text) returns boolean
language sql stable security definer set search_path = '' as $$
    select exists (
        select 1 from auth.sessions s join auth.users u on u.id = s.user_id
        where s.user_id = auth.uid() and s.user_agent = p_user_agent and not u.is_anonymous
            and (s.not_after is null or s.not_after > now())
            and coalesce(s.refreshed_at at time zone 'utc', s.created_at) > now() - interval '70 minutes')
$$;

create function public.create_api_key(p_name text, p_key_hash text, p_hint text, p_expires_at timestamptz default null)
returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_key public.api_keys;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('api keys of ' || v_user, 3));
    if (select count(*) from public.api_keys k where k.user_id = v_user) >= 50 then
        raise sqlstate 'PT409' using message = 'too_many_api_keys';
    end if;
    insert into public.api_keys (user_id, name, key_hash, hint, expires_at)
    values (v_user, p_name, p_key_hash, p_hint, p_expires_at)
    returning * into v_key;
    return to_jsonb(v_key) - 'key_hash' - 'user_id';
end $$;

create function public.user_of_api_key(p_key_hash text) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
    v_key public.api_keys;
begin
    select * into v_key from public.api_keys k
    where k.key_hash = p_key_hash and (k.expires_at is null or k.expires_at > now());
    if v_key.last_used_at is null or v_key.last_used_at < now() - interval '1 minute' then
        update public.api_keys set last_used_at = now() where id = v_key.id;
    end if;
    return v_key.user_id;
end $$;

revoke all on function
    public.handle_new_user, public.handle_user_update, public.is_test_user, public.mark_test_data, public.update_profile,
    public.has_live_session, public.create_api_key, public.user_of_api_key
    from public, anon, authenticated;
grant execute on function public.update_profile, public.has_live_session, public.create_api_key to authenticated;
grant execute on function public.user_of_api_key to anon, authenticated;
