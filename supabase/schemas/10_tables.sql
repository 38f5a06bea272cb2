-- Every table with its constraints and indexes. The rights on them are in 20_rights.sql.
--
-- A new column goes to the end of its table: a migration can only add it there, and the order shows in `select *`.

-- ----------------------------------------------------------------------------------------------------------------- types

create type public.task_status as enum ('pending', 'running', 'completed', 'failed', 'cancelled');

create type public.run_status as enum ('queued', 'running', 'completed', 'failed', 'cancelled');

-- -------------------------------------------------------------------------------------------------- users, projects, tasks
-- The frontend reads these three directly through Supabase: their columns and enum values are part of the wire contract.

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
-- One project per user and repository, however the URL is spelt: x, x.git, x/, git@host:owner/x, in any case. `repo_url` is
-- stored as it was sent; the API has read owner and name from it, and the host stands between `git@` and `:`, or `://` and `/`.
create unique index projects_user_id_repository_key on public.projects (
    user_id, lower(repo_owner), lower(repo_name),
    lower(coalesce(substring(repo_url from 'git@([^:/]+):'), substring(repo_url from '://([^/]+)/'))));

-- Exactly one foreign key joins tasks and projects: PostgREST resolves the frontend's `project:projects(...)` by it.
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
-- These give a page of a list in its order; the included columns let tasks be counted without reading a row.
create index idx_tasks_user_id on public.tasks (user_id, created_at desc, id desc) include (project_id, status);
create index idx_tasks_project_id on public.tasks (project_id, created_at desc, id desc) include (user_id, status);

-- ------------------------------------------------------------------------------------------------------------------ runs
-- A run is one execution of one prompt on a task. Its row is the truth; a queue message only asks a worker to look at it.

-- One row that an operator may update. Functions read it, so no caller can choose limits for itself.
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

-- When a user started a run. Not counted in `runs`: deleting a project deletes its runs, and would reset the count.
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

-- ----------------------------------------------------------------------------------------------------- what a run leaves

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

-- Large contents, by the ids that git has for them. The executor stores them before it ends the run. A content is complete
-- when all its `parts` are there. Where a secret was removed, `id` is still git's id of the file that the agent left.
create table public.task_contents (
    run_id uuid not null constraint task_contents_run_id_fkey references public.runs (id) on delete cascade,
    id text not null constraint task_contents_id_check check (id ~ '^[0-9a-f]{40}([0-9a-f]{24})?$'),
    part integer not null,
    parts integer not null,
    data bytea not null constraint task_contents_size_check check (octet_length(data) <= 1048576),
    constraint task_contents_pkey primary key (run_id, id, part),
    constraint task_contents_part_check check (part >= 0 and part < parts and parts <= 100)
);

-- One row per run that has ended. Task, project and run that it names may have been deleted since.
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

-- -------------------------------------------------------------------------------------------------------------- API keys

-- Keys for programs. The database stores only a key's SHA-256: a reader of the table has no key.
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

-- ------------------------------------------------------------------------------------------------------------ updated_at

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
