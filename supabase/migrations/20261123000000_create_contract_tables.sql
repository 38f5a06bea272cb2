-- The tables that the existing frontend reads straight through Supabase: every table, column and enum value of the wire
-- contract. What differs from the old schema is who may write: tasks change only through functions, so that nobody can
-- forge a status or a patch, and columns that decide rights are out of a user's reach.

create type public.task_status as enum ('pending', 'running', 'completed', 'failed', 'cancelled');

create table public.users (
    id uuid primary key constraint users_id_fkey references auth.users (id) on delete cascade,
    email text,
    full_name text,
    avatar_url text,
    github_username text,
    -- Kept for the frontend's generated types. Nothing of ours reads or writes it, and no user may select it:
    -- secrets live sealed in user_credentials.
    github_token text,
    preferences jsonb default '{}'::jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    is_test_user boolean default false,
    expires_at timestamptz
);

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

create index idx_projects_user_id on public.projects (user_id, created_at desc);
create index idx_tasks_user_id on public.tasks (user_id, created_at desc);
create index idx_tasks_project_id on public.tasks (project_id);
create index idx_tasks_status on public.tasks (status);
create index idx_users_test_user on public.users (is_test_user) where is_test_user;
create index idx_users_expires_at on public.users (expires_at) where expires_at is not null;

create function public.update_updated_at_column() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.updated_at := now();
    return new;
end $$;

create trigger update_projects_updated_at before update on public.projects
    for each row execute function public.update_updated_at_column();
create trigger update_tasks_updated_at before update on public.tasks
    for each row execute function public.update_updated_at_column();

-- A row in auth.users gets its row in public.users. Whether it is a test user is read from raw_app_meta_data, which only
-- the service can write; raw_user_meta_data is whatever the person signing up sent.
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

-- Follows a changed email, name or picture; a plain sign-in (which also updates auth.users) leaves the profile alone.
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

-- Rows of a test user are marked as test data whoever inserts them.
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

alter table public.users enable row level security;
alter table public.projects enable row level security;
alter table public.tasks enable row level security;

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

-- Supabase grants everything on new tables to anon and authenticated by default; row-level security alone would still let
-- a user rewrite the columns of an own row that decide rights.
revoke all on public.users, public.projects, public.tasks from anon, authenticated;
grant select (id, email, full_name, avatar_url, github_username, preferences, created_at, updated_at, is_test_user, expires_at),
    update (full_name, avatar_url, github_username, preferences) on public.users to authenticated;
grant select, delete,
    insert (user_id, repo_url, repo_name, repo_owner, name, description, is_active, settings),
    update (repo_url, repo_name, repo_owner, name, description, is_active, settings) on public.projects to authenticated;
grant select on public.tasks to authenticated;
grant usage on sequence public.projects_id_seq to authenticated;
grant all on public.users, public.projects, public.tasks to service_role;

revoke all on function public.is_test_user(uuid), public.handle_new_user(), public.handle_user_update(),
    public.mark_test_data(), public.update_updated_at_column() from public, anon, authenticated;
