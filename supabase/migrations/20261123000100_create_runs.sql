-- Runs, their live log, their files and sealed secrets. A run is one execution of one prompt on a task; the row is the
-- truth and a queue message is only a nudge to look at it. All writes go through the functions of the next migration.

create type public.run_status as enum ('queued', 'running', 'completed', 'failed', 'cancelled');

-- One row that an operator may update; the functions read it, so no caller can choose limits for itself.
create table public.run_limits (
    only_row boolean primary key default true constraint run_limits_only_row_check check (only_row),
    active_per_user integer not null default 50 constraint run_limits_active_check check (active_per_user > 0),
    running_per_user integer not null default 10 constraint run_limits_running_check check (running_per_user > 0),
    running_in_all integer not null default 100 constraint run_limits_all_check check (running_in_all > 0)
);
comment on column public.run_limits.active_per_user is 'queued and running runs of one user; more are refused (PT429)';
comment on column public.run_limits.running_per_user is 'sandboxes of one user at a time; more wait in the queue';
comment on column public.run_limits.running_in_all is 'sandboxes at a time; keep it below the E2B plan''s limit (20 Hobby, 100 Pro)';
insert into public.run_limits default values;

create table public.user_credentials (
    id uuid primary key,
    user_id uuid not null constraint user_credentials_user_id_fkey references public.users (id) on delete cascade,
    kind text not null constraint user_credentials_kind_check check (kind in ('git_token')),
    -- Base64. Sealed with user_id, kind and id as additional data: a row copied to another user cannot be opened.
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
    seq integer not null default 0,           -- which step comes next; a message for another step is stale
    fence integer not null default 0,         -- grows with each claim; a write that names an older one is refused
    lease_until timestamptz,                  -- set while a worker holds the run; runs out when the worker died
    next_check_at timestamptz not null default now(),
    deadline_at timestamptz,
    attempt integer not null default 0,       -- claims since the last step that was saved as done: bounds retries and crashes
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
    constraint runs_user_id_idempotency_key_key unique (user_id, idempotency_key)
);
create unique index runs_one_active_per_task on public.runs (task_id) where status in ('queued', 'running');
create index idx_runs_due on public.runs (next_check_at) where status in ('queued', 'running');
create index idx_runs_user_id on public.runs (user_id, status);
create index idx_runs_git_credential_id on public.runs (git_credential_id);

create trigger update_runs_updated_at before update on public.runs
    for each row execute function public.update_updated_at_column();

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
    encoding text not null default 'utf-8' constraint task_files_encoding_check check (encoding in ('utf-8', 'base64')),
    size bigint not null default 0,
    truncated boolean not null default false,
    constraint task_files_pkey primary key (run_id, path)
);
create index idx_task_files_task_id on public.task_files (task_id);

alter table public.run_limits enable row level security;
alter table public.user_credentials enable row level security;
alter table public.runs enable row level security;
alter table public.task_events enable row level security;
alter table public.task_files enable row level security;

-- An event and a file belong to whoever owns the task; `tasks` is itself under row-level security, so the inner select
-- finds only own tasks.
create policy "Users can view own runs" on public.runs for select to authenticated
    using ((select auth.uid()) = user_id);
create policy "Users can view events of own tasks" on public.task_events for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));
create policy "Users can view files of own tasks" on public.task_files for select to authenticated
    using (exists (select 1 from public.tasks t where t.id = task_id and t.user_id = (select auth.uid())));

revoke all on public.run_limits, public.user_credentials, public.runs, public.task_events, public.task_files
    from anon, authenticated;
grant select on public.runs, public.task_events, public.task_files to authenticated;
grant all on public.run_limits, public.user_credentials, public.runs, public.task_events, public.task_files to service_role;
